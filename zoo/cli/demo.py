"""zoo demo."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--out",
    default="runs/demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Shards, runs and the report go there; an interrupted demo continues.",
)
@click.option("--quick", is_flag=True, help="A few steps only: shows that it works, not how well.")
def command(out: Path, quick: bool) -> None:
    """Pretrains small encoders offline, against honest baselines.

    Images, images with captions, code, tables, sounds and volumes; the last two are made here.
    """
    from zoo.demo.run import run_demo

    # A folder of its own: a full demo must not take over the few texts of a quick one.
    run_demo(out / "quick" if quick else out, quick=quick)
