"""zoo catalogue."""

from pathlib import Path

import click


@click.command(epilog="Example:  zoo catalogue --html zoo.html")
@click.option("--html", "out", type=click.Path(path_type=Path), required=True, help="The file.")
def command(out: Path) -> None:
    """Every card on one page that a browser searches without a network."""
    from zoo.report.catalogue import write_catalogue

    click.echo(write_catalogue(out))
