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
    """Pretrains two small encoders on real data, offline, against honest baselines."""
    from zoo.demo.run import run_demo

    run_demo(out, quick=quick)
