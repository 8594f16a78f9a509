"""Whether telling where crops lie teaches what is in them (VoCo, arXiv 2410.09890).

    python -m zoo.benchmarks.claims.voco

120 unlabelled torsos of the demo (48 x 48 x 16 voxels, synthetic, eight organs, intensities shifted
from scan to scan), a 3 x 3 grid of base crops, a small convolution network. What random crops are
made of is told by ridge regression from frozen features of six labelled bodies, for 60 unseen ones.
The controls: the same crops and losses with shuffled places, and the weights of the start. Means of
voxels are shown beside. About two minutes on one core.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from zoo.benchmarks.claims.paired import Claim, interval, report

import zoo
from zoo.demo.shuffled_voco import shuffled
from zoo.demo.torso_trials import VOXELS, torso_crops, voxel_means
from zoo.demo.torsos import write_torsos
from zoo.pretraining import untrained
from zoo.probes.composition import composition, pooled

MODEL, FEW = "torsos-voco", 6
BODIES = {"train": 120, "test": 60}
RANDOM, DROPOUT = "random weights", "VoCo, dropout 0.2"
CLAIM = Claim(
    name="voco",
    says="Telling where a crop lies teaches what is in it (VoCo, arXiv 2410.09890).",
    measure="R² of what crops are made of, each seed",
    ways=("VoCo", "VoCo, shuffled places"),
)


@click.command()
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--steps", default=300, show_default=True, help="Of each run.")
def command(seeds: int, steps: int) -> None:
    """VoCo against its losses with shuffled places, and against random weights."""
    options: tuple[dict[str, object], ...] = ({}, shuffled(MODEL), {"objective.drop": 0.2})
    ways = dict(zip((*CLAIM.ways, DROPOUT), options, strict=True))
    values: dict[str, list[float]] = {name: [] for name in (*ways, RANDOM, VOXELS)}
    with tempfile.TemporaryDirectory(prefix="zoo-claim-") as name:
        folder = Path(name)
        shards = write_torsos(folder / "shards", BODIES | {"labelled": FEW * seeds})
        anything = zoo.create(MODEL)
        test = torso_crops(anything, shards["test"], seed=0)
        for seed in range(seeds):
            chosen = range(FEW * seed, FEW * (seed + 1))
            few = torso_crops(anything, shards["labelled"], seed=1 + seed, chosen=chosen)
            values[VOXELS].append(composition(voxel_means, few, test))
            for number, (way, own) in enumerate(ways.items()):
                out, recipe = folder / f"run-{seed}-{number}", {"train.steps": steps, **own}
                run = zoo.pretrain(MODEL, shards["train"], out, recipe, seed=seed, progress=False)
                values[way].append(composition(pooled(run.load()), few, test))
            start = untrained(run).eval()
            values[RANDOM].append(composition(pooled(start), few, test))
            shown = ", ".join(f"{way} {scores[-1]:.4f}" for way, scores in values.items())
            click.echo(f"seed {seed}: {shown}")
    ours = values[CLAIM.ways[0]]
    against = {name: _against(ours, values[name]) for name in values if name != CLAIM.ways[0]}
    report(
        CLAIM,
        values,
        {"steps": steps, **BODIES, "labelled": FEW, "against": against},
        keep=seeds > 2,
    )
    for name, facts in against.items():
        click.echo(f"VoCo against {name}: {facts}")


def _against(ours: Sequence[float], control: Sequence[float]) -> dict[str, object]:
    """The paired difference, its 95 % interval and p of a t test."""
    from scipy.stats import ttest_rel

    differences = [a - b for a, b in zip(ours, control, strict=True)]
    return {
        "difference": round(sum(differences) / len(differences), 5),
        "interval_95": [round(end, 5) for end in interval(differences)],
        "p": float(f"{ttest_rel(ours, control).pvalue:.2g}"),
    }


if __name__ == "__main__":
    command()
