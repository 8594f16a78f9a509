"""zoo export."""

from pathlib import Path
from typing import Literal

import click


@click.command(epilog="Example:  zoo export runs/digits digits-at-500 --step 500")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--step", type=int, help="Of the checkpoint; the newest by default.")
@click.option("--format", type=click.Choice(["zoo", "timm"]), default="zoo", help="Whose loader.")
def command(run: Path, out: Path, step: int | None, format: Literal["zoo", "timm"]) -> None:
    """Writes the encoder of a run's checkpoint to the folder OUT; also while the run trains."""
    import zoo

    done = zoo.export(run, out, step, format=format)
    if format == "timm":
        click.echo(f"done: timm.create_model({f'local-dir:{done}'!r}, pretrained=True)")
    else:
        click.echo(f"done: zoo.load({f'{done}/'!r})")
