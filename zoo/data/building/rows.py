"""A table as samples: one sample a row, from its cells and from the files that it names."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.building.sources import (
    Item,
    Listing,
    Source,
    clean_extension,
    clean_key,
    extension_of,
)
from zoo.data.building.tables import Row, Table, open_table
from zoo.errors import DataError, UnknownNameError, UsageError

__all__ = ["table_source"]

_FILE_COLUMNS = ("path", "file", "file_name", "filename", "image", "audio")
_SHOWN = 8  # columns in a message
_WHOLE_ROW = _OWN_EXTENSION = "*"


def table_source(
    path: Path,
    *,
    members: Mapping[str, str] | None = None,
    key: str | None = None,
    label: str | None = None,
    allow_outside: bool = False,
    skip: bool = False,
) -> Source:
    """A CSV, JSON lines or Parquet table with one sample a row.

    Args:
        path: of the table.
        members: extension -> column with its text (or bytes), or "@column" with the path of its
            file, relative to the table; "a.b" is a field of a column. The column "*" is the whole
            row as JSON, the extension "*" is the file's own. Without this: the whole row, and the
            files in columns with names such as path, file, image or audio.
        key: column of the keys, else the row's number, counted from 0.
        label: column of the classes' names; each sample gets its name's number, a member `cls`.
        allow_outside: files may lie outside the table's folder.
        skip: leave out samples that cannot be read, instead of stopping.

    Raises:
        UsageError: there are no samples, or a column or an extension is none.
        DataError: a row or its files cannot be read; names it.
    """
    table = open_table(path.absolute())
    parts = _parts(members or _default_members(table))
    columns = [column for _, column, _ in parts if column != _WHOLE_ROW]
    columns += [name for name in (key, label) if name]
    for name in columns:
        if not {name, name.partition(".")[0]} & set(table.columns):
            shown = ", ".join(table.columns[:_SHOWN])
            hint = f"{path.name} begins with a line of names: {shown}"
            raise UnknownNameError("column", name, table.columns, hint)
    classes = _classes(table, label) if label else []
    rows = _Rows(
        table=table,
        parts=parts,
        key=key,
        label=label,
        numbers_of={name: number for number, name in enumerate(classes)},
        allow_outside=allow_outside,
        columns=table.columns if any(c == _WHOLE_ROW for _, c, _ in parts) else tuple(columns),
        stamp=_stamp(table.path),
    )
    listing, places = Listing(skip), array("q")
    for number, (place, row) in enumerate(table.scan(rows.columns)):
        places.append(place)
        with listing.bad.expected(rows.where(number)):
            if isinstance(row, DataError):
                raise row
            listing.add(number, rows.item(number, row))
    rows = replace(rows, numbers=np.arange(len(places)), places=np.array(places, np.int64))
    source = listing.source(rows, path, kind=path.suffix[1:].lower())
    return replace(source, classes=classes)


def _classes(table: Table, label: str) -> list[str]:
    """Every name in the column, sorted; what is wrong with a row is told where it is listed."""
    found = set()
    for _, row in table.scan([label]):
        if not isinstance(row, DataError):
            with suppress(DataError):
                found.add(_name(row, label))
    return sorted(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Samples of a table."""

    table: Table
    parts: tuple[tuple[str, str, bool], ...]  # extension, column, whether it holds a path
    key: str | None
    label: str | None
    numbers_of: Mapping[str, int]  # of the classes, by name
    allow_outside: bool
    columns: tuple[str, ...]  # to read
    stamp: tuple[int, int]
    numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def part(self, ids: NDArray[np.int64]) -> "_Rows":
        return replace(self, numbers=self.numbers[ids], places=self.places[ids])

    def __iter__(self) -> Iterator[Item]:
        if _stamp(self.table.path) != self.stamp:
            raise DataError(f"{self.table.path.name}: has changed since it was listed; start again")
        rows = self.table.read(self.places, self.columns)
        try:
            for number, row in zip(self.numbers.tolist(), rows, strict=True):
                yield self.item(number, row)
        except OSError as error:
            raise DataError(f"{self.table.path}: cannot read it ({error})", code="IO") from None

    def where(self, number: int) -> str:
        """A row's name in messages."""
        return f"{self.table.path.name}, row {number}"

    def item(self, number: int, row: Row) -> Item:
        """A row as a sample."""
        key = f"{number:09d}" if self.key is None else clean_key(str(_value(row, self.key)))
        members: list[tuple[str, bytes | Path]] = []
        for extension, column, is_path in self.parts:
            value = row if column == _WHOLE_ROW else _value(row, column)
            if is_path:
                path = self._file(str(value))
                own = extension_of(path.name) if extension == _OWN_EXTENSION else extension
                if not own:
                    raise DataError(f"{path.name!r} has no extension", code="MISSING_PART")
                members.append((own, path))
            else:
                members.append((extension, _bytes(value, column)))
        if self.label is not None:
            members.append(("cls", str(self.numbers_of[_name(row, self.label)]).encode()))
        return Item(self.where(number), key, tuple(members))

    def _file(self, name: str) -> Path:
        """The file that a row names; a stranger's table reads nothing but its own folder."""
        folder = self.table.path.parent
        path = folder / name
        try:
            inside = self.allow_outside or path.resolve().is_relative_to(folder.resolve())
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{name!r} is no path ({error})", code="UNSAFE_NAME") from None
        if not inside:
            reason = f"{name!r} lies outside the table's folder, which needs --allow-outside"
            raise DataError(reason, code="UNSAFE_NAME")
        return path


def _parts(
    members: Mapping[str, str] | Sequence[tuple[str, str]],
) -> tuple[tuple[str, str, bool], ...]:
    """(extension, column, whether it holds a path) of each member."""
    pairs = members.items() if isinstance(members, Mapping) else members
    parts = []
    for extension, column in pairs:
        is_path = column.startswith("@")
        fits = extension == clean_extension(extension) and extension
        if not fits or (extension == _OWN_EXTENSION and not is_path) or column in ("", "@"):
            raise UsageError(f"member {extension!r}={column!r}: is not of the form jpg=@column")
        parts.append((extension, column.removeprefix("@"), is_path))
    return tuple(parts)


def _default_members(table: Table) -> list[tuple[str, str]]:
    """The whole row, and the files in columns that are named for files and hold some."""
    candidates = [column for column in table.columns if column.lower() in _FILE_COLUMNS]
    first = next(
        (row for _, row in table.scan(table.columns) if not isinstance(row, DataError)), {}
    )
    found = []
    for column in candidates:
        value = first.get(column)
        if isinstance(value, str) and _is_file(table.path.parent / value):
            found.append((_OWN_EXTENSION, f"@{column}"))
    return [("json", _WHOLE_ROW), *found]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with a NUL
        return False


def _value(row: Row, column: str) -> object:
    """A cell; `a.b` is a field of column a where there is no column of that name."""
    value: object = row
    for name in (column,) if column in row else column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if value is None:
        raise DataError(f"nothing in column {column!r}", code="MISSING_PART")
    return value


def _name(row: Row, column: str) -> str:
    """The name of a row's class."""
    name = str(_value(row, column)).strip()
    if not name:
        raise DataError(f"nothing in column {column!r}", code="MISSING_PART")
    return name


def _bytes(value: object, column: str) -> bytes:
    """Bytes as they are, text as UTF-8, anything else as JSON."""
    if isinstance(value, bytes):
        return value
    try:
        if isinstance(value, str):
            return value.encode()
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
        return text.encode()
    except UnicodeEncodeError:
        raise DataError(f"column {column!r}: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"column {column!r}: {error}", code="NONFINITE") from None


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        raise UsageError("a column holds bytes, which JSON cannot: name the members of a sample")
    return str(value)  # dates, decimals


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})", code="IO") from None
    return facts.st_size, facts.st_mtime_ns
