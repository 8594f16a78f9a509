"""What a linear head sees of a row: the columns themselves, the embedding, or both.

Notation: N rows, F features of the columns, D width of the encoder.
"""

import numpy as np
from numpy.typing import NDArray

from zoo.modalities.tabular.rows import RowEncoder
from zoo.modalities.tabular.table import Table

__all__ = ["RawColumns", "RowFeatures", "beside"]

Floats = NDArray[np.float64]
_FLOOR = 0.02  # of the largest scale: features that hardly move must not be blown up
_SHARE = 0.25  # of the variance that is the embedding's where it stands beside the columns
_MOST_LEVELS = 64  # a column with more is text, and left to the encoder


class RawColumns:
    """Fitted on a table's columns; a missing or unknown value is 0 everywhere."""

    def __init__(self, table: Table) -> None:
        self.numbers = [
            column.name
            for column, cells in zip(table.columns, table.cells, strict=True)
            if cells.numbers is not None
        ]
        self.levels = {
            column.name: {level: i for i, level in enumerate(sorted(cells.levels))}
            for column, cells in zip(table.columns, table.cells, strict=True)
            if 0 < len(cells.levels) <= _MOST_LEVELS
        }

    def __call__(self, table: Table) -> Floats:
        """(N, F), columns found by name."""
        place = {name: i for i, name in enumerate(table.names)}
        numbers = [np.nan_to_num(table.standardised(place[name])) for name in self.numbers]
        parts = [np.reshape(numbers, (len(numbers), table.rows)).T]
        for name, known in self.levels.items():
            cells = table.cells[place[name]]
            # One column more takes what is missing or unknown, and is dropped.
            places = np.array(
                [known.get(level, len(known)) for level in cells.levels] + [len(known)]
            )
            codes = np.full(table.rows, -1) if cells.codes is None else cells.codes
            parts.append(np.eye(len(known) + 1)[places[codes]][:, :-1])
        return np.hstack(parts)


class RowFeatures:
    """Columns standardised one by one, beside the embedding, whose features keep their proportions.

    The variance of all features together is that of the columns, whichever are there: a head's
    regularisation then means the same for ten features and for a hundred.

    Args:
        encoder: makes the embedding.
        table: rows that means and scales are fitted on.
        raw: the columns are wanted.
    """

    def __init__(self, encoder: RowEncoder, table: Table, *, raw: bool = True) -> None:
        self.encoder, self.raw, self.columns = encoder, raw, RawColumns(table)
        x, z = self.columns(table), encoder.embed(table).astype(np.float64)
        scale = x.std(0)
        self.mean = x.mean(0)
        self.scale = np.maximum(scale, max(_FLOOR * scale.max(initial=0.0), 1e-12))
        self.centre = z.mean(0)
        total = float((x / self.scale).var(0).sum()) or z.shape[1]
        self.size = (total / max(z.var(0).sum(), 1e-12)) ** 0.5

    def __call__(self, table: Table) -> Floats:
        """(N, F + D), or (N, D) without the columns."""
        x, z = self.parts(table)
        return beside(x, z) if self.raw else z

    def parts(self, table: Table) -> tuple[Floats, Floats]:
        """Columns (N, F) and embedding (N, D), of the same variance in all."""
        z = (self.encoder.embed(table).astype(np.float64) - self.centre) * self.size
        return (self.columns(table) - self.mean) / self.scale, z


def beside(x: Floats, z: Floats) -> Floats:
    """(N, F + D): columns, then the embedding, which has a quarter of the variance."""
    return np.hstack([(1 - _SHARE) ** 0.5 * x, _SHARE**0.5 * z])
