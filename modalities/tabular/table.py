"""A table in memory: columns of numbers and of strings by code, ready for the token packer.

A column may hold numbers, strings, or both (a mixed column): a cell is the number where there is
one, else the string, else missing. Dates become several columns of numbers.

Notation: R rows, C columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError

__all__ = ["Cells", "Column", "Kind", "Table", "concatenate"]

Kind = Literal["number", "boolean", "category", "text"]
Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
_FLOOR = 1e-6  # of a standard deviation, relative to the largest magnitude of the column


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What is stored once a column; the statistics are those of the rows it was learned from."""

    name: str
    kind: Kind
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, slots=True)
class Cells:
    """The values of one column, (R,) each."""

    numbers: Floats | None = None  # NaN where the cell is no number
    codes: Codes | None = None  # into `levels`, -1 where the cell is no string
    levels: tuple[str, ...] = ()
    whole: bool = False  # the numbers came as integers

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(R,) True where there is neither a number nor a string."""
        if self.numbers is None:
            assert self.codes is not None
            return self.codes < 0
        absent: NDArray[np.bool_] = np.isnan(self.numbers)
        return absent if self.codes is None else absent & (self.codes < 0)

    def take(self, rows: NDArray[np.int64]) -> "Cells":
        """These rows, in this order, with no more levels than they use."""
        numbers = None if self.numbers is None else self.numbers[rows]
        if self.codes is None:
            return Cells(numbers, whole=self.whole)
        codes, levels = self.codes[rows], self.levels
        if len(levels) > len(rows):
            used, places = np.unique(codes, return_inverse=True)
            codes = (places - (used.size > 0 and used[0] < 0)).astype(np.int32)
            levels = tuple(levels[i] for i in used.tolist() if i >= 0)
        return Cells(numbers, codes, levels, self.whole)

    def values(self) -> list[float | str | None]:
        """Plain Python values, None where missing."""
        rows = len(self.missing)
        numbers = [float("nan")] * rows if self.numbers is None else self.numbers.tolist()
        codes = [-1] * rows if self.codes is None else self.codes.tolist()
        return [
            number if number == number else (self.levels[code] if code >= 0 else None)
            for number, code in zip(numbers, codes, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns side by side, all of `rows` rows."""

    columns: tuple[Column, ...]
    cells: tuple[Cells, ...]
    rows: int

    @property
    def names(self) -> list[str]:
        """The columns' names, in order."""
        return [column.name for column in self.columns]

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """These rows, in this order."""
        return Table(self.columns, tuple(cells.take(rows) for cells in self.cells), len(rows))

    def pick(self, names: Iterable[str]) -> "Table":
        """These columns, in this order; a column that is not there is all missing."""
        place = {name: i for i, name in enumerate(self.names)}
        absent = Cells(np.full(self.rows, np.nan))
        chosen = [(name, place.get(name)) for name in names]
        return Table(
            tuple(
                Column(name=name, kind="number") if i is None else self.columns[i]
                for name, i in chosen
            ),
            tuple(absent if i is None else self.cells[i] for _, i in chosen),
            self.rows,
        )

    def rename(self, names: Mapping[str, str]) -> "Table":
        """The same cells under other names."""
        columns = (replace(c, name=names.get(c.name, c.name)) for c in self.columns)
        return Table(tuple(columns), self.cells, self.rows)

    def fitted(self) -> "Table":
        """The same cells; every column's statistics are those of the rows that are here."""
        pairs = zip(self.columns, self.cells, strict=True)
        return Table(tuple(_fit(*pair) for pair in pairs), self.cells, self.rows)

    def like(self, columns: Sequence[Column]) -> "Table":
        """The same cells with the statistics of columns that were fitted on other rows, by name."""
        known = {column.name: column for column in columns}
        own = self.fitted().columns  # a column that was never seen has only its own rows
        return Table(tuple(known.get(c.name, c) for c in own), self.cells, self.rows)

    def standardised(self, column: int) -> Floats:
        """(R,) numbers of a column as (x - mean) / std, NaN where the cell is no number."""
        numbers, facts = self.cells[column].numbers, self.columns[column]
        if numbers is None:
            return np.full(self.rows, np.nan)
        return (numbers - facts.mean) / facts.std

    def describe(self) -> list[dict[str, object]]:
        """What was inferred: name, kind, share of missing cells, distinct strings, an example."""
        report = []
        for column, cells in zip(self.columns, self.cells, strict=True):
            example = next((value for value in cells.values() if value is not None), None)
            facts: dict[str, object] = {"name": column.name, "kind": column.kind}
            facts["missing"] = float(cells.missing.mean()) if self.rows else 0.0
            facts |= {"distinct": len(cells.levels), "example": example}
            report.append(facts)
        return report


def _fit(column: Column, cells: Cells) -> Column:
    if cells.numbers is None:
        return column
    present = cells.numbers[~np.isnan(cells.numbers)]
    if not present.size:
        return replace(column, mean=0.0, std=1.0)
    scale = float(np.abs(present).max())
    if not scale:
        return replace(column, mean=0.0, std=1.0)
    shrunk = present / scale  # squares of the largest floats would overflow
    std = float(shrunk.std())
    std = std if std > _FLOOR else 1.0
    return replace(column, mean=float(shrunk.mean()) * scale, std=std * scale)


def concatenate(tables: Sequence[Table]) -> Table:
    """Rows of tables with the same columns, one below the other.

    Raises:
        DataError: the columns differ.
    """
    first = tables[0]
    for other in tables[1:]:
        if other.names != first.names:
            raise DataError(f"tables with different columns: {first.names} and {other.names}")
    cells = tuple(_join([t.cells[i] for t in tables]) for i in range(len(first.columns)))
    return Table(first.columns, cells, sum(table.rows for table in tables))


def _join(parts: Sequence[Cells]) -> Cells:
    levels: dict[str, int] = {}
    numbers, codes = [], []
    for part in parts:
        rows = len(part.missing)
        numbers.append(np.full(rows, np.nan) if part.numbers is None else part.numbers)
        places = np.array([levels.setdefault(v, len(levels)) for v in part.levels] + [-1], np.int32)
        codes.append(np.full(rows, -1, np.int32) if part.codes is None else places[part.codes])
    has_numbers = any(part.numbers is not None for part in parts)
    has_codes = any(part.codes is not None for part in parts)
    return Cells(
        np.concatenate(numbers) if has_numbers else None,
        np.concatenate(codes) if has_codes else None,
        tuple(levels),
        all(part.whole for part in parts),
    )
