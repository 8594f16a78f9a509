"""Models of other libraries by name: `LIBRARY/NAME`, or `LIBRARY/NAME.TAG` for a set of weights."""

from collections.abc import Iterable

from zoo.registry.catalogue import Row

from zoo.errors import UnknownNameError

__all__ = ["SIZE", "bare", "find_row"]

SIZE = "default"  # the only one that such a card has


def bare(name: str) -> str:
    """NAME, as the library has it."""
    return name.partition("/")[2].partition(".")[0]


def find_row(name: str, rows: Iterable[Row]) -> tuple[Row, str | None]:
    """The row of a model among those of its library; with a tag, of these weights.

    Raises:
        UnknownNameError: the library has no such model, or no such weights of it.
    """
    base, _, tag = name.partition(".")
    known = {row.name: row for row in rows}
    if base not in known:
        library = name.partition("/")[0]
        raise UnknownNameError("model", name, known, f"zoo.list_models('{library}/*') shows all")
    row = known[base]
    if not tag:
        return row, None
    if tag not in row.tags:
        raise UnknownNameError(f"weights of {base}", tag, row.tags)
    return row._replace(name=name, family=name, tags=(tag,)), tag
