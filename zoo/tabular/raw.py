"""The columns themselves as features: numbers standardised, categories one-hot."""

import numpy as np
from numpy.typing import NDArray

from zoo.modalities.tabular.table import Table

__all__ = ["RawColumns"]

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

    def __call__(self, table: Table) -> NDArray[np.float64]:
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
