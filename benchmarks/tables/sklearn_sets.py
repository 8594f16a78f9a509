"""scikit-learn's five real tables: splits, low-label draws, hidden cells, and the mixed view.

Specification `tabular`, 5.1. breast_cancer and diabetes use what is stored beside the goldens; the
other sets follow the same rules with seeds of their own.

Notation: N rows, F features.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold
from zoo.modalities.tabular.read import read_table, strings
from zoo.modalities.tabular.table import Cells, Table

from zoo.tabular.sources import labelled

__all__ = [
    "LABELS",
    "Dataset",
    "Split",
    "draws",
    "drop_order",
    "hidden_cells",
    "load",
    "mixed_view",
    "splits",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LABELS = (10, 20, 50)
_LEVELS = ("very low", "low", "medium", "high", "very high")
_EMPTIED = 0.08  # of the cells of the mixed view


@dataclass(frozen=True)
class Dataset:
    """One table with its targets; `stored` is the golden sidecar where there is one."""

    name: str
    x: Floats
    y: Floats
    table: Table  # the features, by their names
    stored: Mapping[str, Any] = field(default_factory=dict)
    mixed: Path | None = None  # the stored mixed view

    @property
    def regression(self) -> bool:
        """Whether the targets are numbers."""
        return self.name == "diabetes"

    @property
    def names(self) -> list[str]:
        """Of the features."""
        return self.table.names


@dataclass(frozen=True, kw_only=True)
class Split:
    """One of the 5 x 2 halves: `pool` is trained on, with or without its labels."""

    data: Dataset
    number: int
    pool: Ints
    test: Ints


def load(name: str, golden: Path | None) -> Dataset:
    """One of scikit-learn's sets, unscaled, with what the folder `golden` stores of it."""
    table, targets = labelled(name)
    x = np.array([cells.numbers for cells in table.cells]).T.copy()
    data = Dataset(name, x, targets, table)
    path = golden / f"cv_{name}.json" if golden else None
    if path is None or not path.exists():
        return data
    stored = json.loads(path.read_text())
    return replace(data, stored=stored, mixed=path.parent / stored["mixed_view"]["file"])


def splits(data: Dataset) -> Iterator[Split]:
    """Rows ascending: 5 x 2, each half is tested once."""
    rows = np.arange(len(data.y))
    for repeat in range(5):
        if data.stored:
            half = np.array([int(c) for c in data.stored["test_half"][repeat]])
        else:
            kind = KFold if data.regression else StratifiedKFold
            folds = kind(2, shuffle=True, random_state=repeat).split(rows, data.y)
            half = np.zeros(len(rows), int)
            half[list(folds)[1][1]] = 1
        for tested in (0, 1):
            number = 2 * repeat + tested
            yield Split(
                data=data, number=number, pool=rows[half != tested], test=rows[half == tested]
            )


def draws(split: Split, count: int, number: int) -> list[Ints]:
    """`number` draws of `count` labelled rows of the pool, the stored ones first.

    Equal per class as far as that goes.
    """
    data = split.data
    entries = data.stored.get("low_label", {}).get("entries", [])
    wanted = (count, split.number // 2, split.number % 2)
    found = [
        np.array(row["labelled_rows"])
        for row in entries
        if (row["n"], row["repeat"], row["half"]) == wanted
    ][:number]
    generator = np.random.default_rng((split.number, count))
    while len(found) < number:
        order = generator.permutation(split.pool)
        if not data.regression:
            classes, codes = np.unique(data.y[order], return_inverse=True)
            rank = np.zeros(len(order), int)
            for c in range(len(classes)):
                rank[codes == c] = np.arange((codes == c).sum())
            order = order[np.argsort(rank, kind="stable")]
        found.append(np.sort(order[:count]))
    return found


def hidden_cells(split: Split, rate: float) -> NDArray[np.bool_]:
    """(test rows, F): the stored mask of a split, or one of its own seed."""
    shape = (len(split.test), split.data.x.shape[1])
    for row in split.data.stored.get("imputation", {}).get("masks", []):
        if (row["repeat"], row["half"], row["rate"]) == (split.number // 2, split.number % 2, rate):
            packed = np.frombuffer(base64.b64decode(row["packbits_base64"]), np.uint8)
            return np.unpackbits(packed)[: shape[0] * shape[1]].reshape(shape).astype(bool)
    return np.random.default_rng((split.number, int(rate * 10))).random(shape) < rate


def drop_order(data: Dataset) -> list[int]:
    """Columns in the order in which they are left out of training."""
    stored = data.stored.get("incremental_columns")
    if stored:
        return [int(i) for i in stored["column_order_for_dropping"]]
    return np.random.default_rng(0).permutation(data.x.shape[1]).tolist()


def mixed_view(data: Dataset) -> Table:
    """Every third column as five ordered strings, 8 % of all cells empty; stored, or made alike."""
    if data.mixed is not None:
        return read_table(data.mixed)
    generator = np.random.default_rng(0)
    table = data.table
    cells = []
    for i, column in enumerate(data.x.T):
        empty = generator.random(len(column)) < _EMPTIED
        if i % 3 == 2:
            fifths = column.argsort(kind="stable").argsort(kind="stable") * 5 // len(column)
            pairs = zip(fifths.tolist(), empty.tolist(), strict=True)
            cells.append(strings([None if gone else _LEVELS[f] for f, gone in pairs]))
        else:
            cells.append(Cells(np.where(empty, np.nan, column)))
    columns = tuple(
        replace(column, kind="number" if values.codes is None else "category")
        for column, values in zip(table.columns, cells, strict=True)
    )
    return Table(columns, tuple(cells), table.rows)
