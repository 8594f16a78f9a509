"""zoo pretrain."""

import os

import click


@click.command(
    epilog="Example:  zoo pretrain digits-mae --data shards/train --out runs/digits train.lr=1e-3"
)
@click.argument("model")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", help="Shards: a folder, a brace list, a glob, one tar, or a mixture.toml.")
@click.option("--out", required=True, type=click.Path(), help="The run's folder.")
@click.option("--seed", type=int, help="Of weights, order and masks; 0 by default.")
@click.option("--device", help="cuda where there is one, else cpu.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--profile", is_flag=True, help="Write where the time of ten steps goes.")
def command(
    model: str,
    options: tuple[str, ...],
    data: str | None,
    out: str,
    seed: int | None,
    device: str | None,
    quiet: bool,
    profile: bool,
) -> None:
    """Pretrains MODEL by its card's recipe; the same command continues an interrupted run.

    MODEL is a name of the catalogue, or the config.toml of a run to repeat. Under torchrun the
    processes share each batch: torchrun --nproc-per-node 4 -m zoo pretrain ...

    KEY=VALUE overrides the recipe: train.lr=3e-4, objective.mask_ratio=0.6, encoder.depth=2.

    Exit codes: 0 done, 2 usage, 65 corrupt input, 70 loss not finite, 73 another process writes the
    run, 74 disk, 75 stopped with its state saved, 1 any other failure.
    """
    import zoo

    run = zoo.pretrain(
        model,
        data,
        out,
        options,
        seed=seed,
        device=device,
        progress=not quiet,
        profile=profile,
    )
    if os.environ.get("RANK", "0") != "0":  # one of several says it
        return
    click.echo(
        f"done: zoo.load({str(run.folder) + '/'!r}), the folder to share is {run.folder}/export"
    )
