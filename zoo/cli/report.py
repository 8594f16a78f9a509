"""zoo report."""

from pathlib import Path

import click


@click.command(epilog="Example:  zoo report runs/digits -o digits.html")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="RUN/report.html by default.")
def command(run: Path, output: Path | None) -> None:
    """One HTML page about a run: facts, curves, pictures, bad samples; also while it trains."""
    from zoo.report.run import write_report

    click.echo(write_report(run, output))
