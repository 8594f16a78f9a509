"""zoo export."""

from pathlib import Path
from typing import Literal

import click


@click.command(epilog="Example:  zoo export runs/digits digits-at-500 --step 500")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--step", type=int, help="Of the checkpoint; the newest by default.")
@click.option(
    "--format",
    type=click.Choice(["zoo", "sentence-transformers"]),
    default="zoo",
    help="For whom; the latter takes text encoders of ModernBERT's form.",
)
def command(
    run: Path, out: Path, step: int | None, format: Literal["zoo", "sentence-transformers"]
) -> None:
    """Writes the encoder of a run's checkpoint to the folder OUT; also while the run trains."""
    import zoo

    zoo.export(run, out, step, format=format)
    load = "zoo.load" if format == "zoo" else "SentenceTransformer"
    click.echo(f"done: {load}({str(out) + '/'!r})")
