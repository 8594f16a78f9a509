"""The arguments and options that scripts of tables share."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

__all__ = ["model_options", "source_option", "table_options"]

F = TypeVar("F", bound=Callable[..., None])
_PATH = click.Path(path_type=Path)


def model_options(command: F) -> F:
    """MODEL and the file of its weights."""
    weights = click.option("--weights", type=_PATH, help="A file, for a catalogue name.")
    return click.argument("model")(weights(command))


def table_options(command: F) -> F:
    """The same, KEY=VALUE, and which lines of a table are measured and kept."""
    out = click.option("--out", type=_PATH, help="A JSON file for all numbers.")
    lines = click.option("--line", "lines", multiple=True, help="Only lines that begin with this.")
    changes = click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
    return model_options(changes(lines(out(command))))


def source_option(text: str = "The data's folder.", *, required: bool = True) -> Callable[[F], F]:
    """Where the data set lies."""
    return click.option("--source", type=_PATH, required=required, help=text)
