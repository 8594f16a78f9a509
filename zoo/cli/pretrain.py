"""zoo pretrain."""

import click


@click.command(
    epilog="Example:  zoo pretrain digits-mae --data shards/train --out runs/digits train.lr=1e-3"
)
@click.argument("model")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--data", required=True, help="Shards: a folder, a brace list, a glob, or one tar.")
@click.option("--out", required=True, type=click.Path(), help="The run's folder.")
@click.option("--seed", default=0, show_default=True, help="Of weights, order and masks.")
@click.option("--device", help="cuda where there is one, else cpu.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(
    model: str,
    options: tuple[str, ...],
    data: str,
    out: str,
    seed: int,
    device: str | None,
    quiet: bool,
) -> None:
    """Pretrains MODEL by its card's recipe; the same command continues an interrupted run.

    KEY=VALUE overrides the recipe: train.lr=3e-4, objective.mask_ratio=0.6, encoder.depth=2.

    Exit codes: 0 done, 2 usage, 65 corrupt input, 70 loss not finite, 73 another process writes the
    run, 74 disk, 75 stopped with its state saved, 1 any other failure.
    """
    import zoo

    run = zoo.pretrain(model, data, out, options, seed=seed, device=device, progress=not quiet)
    click.echo(
        f"done: zoo.load({str(run.folder) + '/'!r}), the folder to share is {run.folder}/export"
    )
