"""zoo plan."""

import re
from typing import TYPE_CHECKING

import click

from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.planning import Cluster, Estimate, Workload
    from zoo.registry.recipe import Recipe

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000, "g": 1_000_000_000}


@click.command(
    epilog="Example:  zoo plan --model bird-mae-large --data 1.7M --gpus 64 train.epochs=100"
)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--model", required=True, help="A name of the catalogue.")
@click.option("--data", required=True, help="Shards, or how many samples: 1.7M.")
@click.option("--gpus", type=click.IntRange(1), multiple=True, help="By default 1, 2, 4 to 4096.")
@click.option("--gpu", default="H100", show_default=True, help="Its name.")
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Share of the GPU's peak.")
@click.option("--price", type=click.FloatRange(0), help="Dollars a GPU-hour.")
@click.option("--mtbf", type=click.FloatRange(0, min_open=True), help="GPU-hours a failure.")
def command(
    options: tuple[str, ...],
    model: str,
    data: str,
    gpus: tuple[int, ...],
    gpu: str,
    mfu: float | None,
    price: float | None,
    mtbf: float | None,
) -> None:
    """How long a pretraining takes on how many GPUs, and what it costs: an estimate.

    Nothing is trained. FLOPs are counted, preparing samples is timed on this machine, the rest are
    assumptions, which are shown. KEY=VALUE overrides the recipe.
    """
    from dataclasses import replace

    from zoo.planning import GPUS, Cluster, estimate
    from zoo.registry.build import resolve_recipe
    from zoo.training.flops import PEAKS
    from zoo.workload import measure, real_members, synthetic_members

    if gpu not in PEAKS:
        raise UsageError(f"no peak is known of {gpu!r}: one of {', '.join(PEAKS)}")
    usual = Cluster(peak=PEAKS[gpu])
    cluster = replace(
        usual,
        utilisation=usual.utilisation if mfu is None else mfu,
        price=usual.price if price is None else price,
        failure=usual.failure if mtbf is None else 3600 * mtbf,
    )
    recipe, count = resolve_recipe(model, data, options), _count(data)
    if count is None:
        members, count = real_members(recipe)
        source = "samples of the shards"
    else:
        members, source = synthetic_members(recipe.modality), "a made-up sample"
    work = measure(recipe, members, count)
    click.echo(described(recipe, work, count, source))
    click.echo(assumed(cluster, gpu))
    click.echo(_table([estimate(work, cluster, number) for number in gpus or GPUS], cluster))


def _count(data: str) -> int | None:
    """The number of samples that is meant; None for the name of shards."""
    found = re.fullmatch(r"([\d_,]*\.?\d+)([kmbg]?)", data.lower())
    if found is None:
        return None
    return round(float(found[1].replace(",", "").replace("_", "")) * _UNITS[found[2]])


def described(recipe: "Recipe", work: "Workload", count: int, source: str) -> str:
    """What is trained, and what was measured of it on which samples."""
    from zoo.text import in_bytes

    return (
        f"{recipe.model}, {recipe.objective['name']}: {count:,} samples, {work.steps:,} steps of "
        f"{work.batch_size:,}\n"
        f"measured here on {source}: forward {work.flops / 1e9:.3g} GFLOPs, "
        f"{in_bytes(work.sample_bytes)}, {1 / work.sample_seconds:,.0f} samples/s a core, "
        f"gradients {in_bytes(work.gradient_bytes)}, checkpoint {in_bytes(work.checkpoint_bytes)}"
    )


def assumed(cluster: "Cluster", gpu: str) -> str:
    """All that an estimate takes for granted."""
    from zoo.text import in_bytes

    return (
        f"assumed: {gpu}, {cluster.peak / 1e12:.0f} TFLOPS in bfloat16, {cluster.utilisation:.0%} "
        f"of it used; {cluster.node} a node, {in_bytes(cluster.link)}/s within, "
        f"{in_bytes(cluster.network)}/s a GPU between nodes; {cluster.cores:g} cores and "
        f"{in_bytes(cluster.read)}/s of samples a GPU; checkpoints at {in_bytes(cluster.write)}/s; "
        f"a failure every {cluster.failure / 3600:,.0f} GPU-hours (arXiv 2407.21783), "
        f"{cluster.restart:g} s to restart; {cluster.price:.2f} $ a GPU-hour"
    )


def _table(estimates: list["Estimate"], cluster: "Cluster") -> str:
    from zoo.text import columns

    head = ("GPUs", "step", "time", "cost", "compute", "network", "data", "saving", "failures")
    rows = []
    for one in estimates:
        parts = (one.compute, one.communication, one.data, one.checkpoints, one.failures)
        finite = one.seconds < float("inf")
        rows.append(
            (
                f"{one.gpus:,}",
                f"{1e3 * one.step:,.0f} ms",
                _duration(one.seconds),
                f"{one.cost(cluster):,.0f} $" if finite else "never",
                *(f"{part / one.seconds:.1%}" if finite else "-" for part in parts),
            )
        )
    return columns(head, rows)


def _duration(seconds: float) -> str:
    """With one unit: 35 min, 7.2 h, 12 days."""
    if seconds == float("inf"):
        return "never"
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"
