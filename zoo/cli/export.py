"""zoo export."""

from pathlib import Path

import click


@click.command(epilog="Example:  zoo export runs/digits digits-at-500 --step 500")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--step", type=int, help="Of the checkpoint; the newest by default.")
def command(run: Path, out: Path, step: int | None) -> None:
    """Writes the encoder of a run's checkpoint to the folder OUT; also while the run trains."""
    import zoo

    click.echo(f"done: zoo.load({str(zoo.export(run, out, step)) + '/'!r})")
