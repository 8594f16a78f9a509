"""zoo report."""

import importlib
from pathlib import Path

import click

from zoo.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command(
    epilog="Examples:  zoo report runs/digits -o digits.html   zoo report --all -o zoo.html"
)
@click.argument("run", type=_PATH, required=False)
@click.option("--all", "everything", is_flag=True, help="Claims, speed, scaling and catalogue.")
@click.option("--demo", type=_PATH, help="With --all: a folder of zoo demo, whose results to show.")
@click.option("-o", "--output", type=_PATH, help="By default RUN/report.html, or zoo.html.")
def command(run: Path | None, everything: bool, demo: Path | None, output: Path | None) -> None:
    """One HTML page about a run, also while it trains; with --all about everything there is."""
    if everything == (run is not None):
        raise UsageError("zoo report: give either a run's folder or --all")
    if demo is not None and not everything:
        raise UsageError("zoo report: --demo goes with --all")
    if run is not None:
        from zoo.report.run import write_report

        click.echo(write_report(run, output))
        return
    # By name, as in `zoo bench`: benchmarks stand above the command.
    evidence = importlib.import_module("zoo.benchmarks.evidence.page")
    click.echo(evidence.write_evidence(output or Path("zoo.html"), demo=demo))
