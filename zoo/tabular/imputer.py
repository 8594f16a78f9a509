"""`Imputer`: the pretrained masked-cell head fills in missing cells.

Notation: N rows, C columns, M cells, V strings.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from zoo.modalities.tables import HIDDEN, MISSING
from zoo.modalities.tabular.encoder import UniTabE
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Cells, Table, concatenate
from zoo.objectives.masked_cells import MaskedCells
from zoo.pretraining import restore_objective
from zoo.tabular.shards import pretrain_tables

__all__ = ["Imputer"]

_ROWS = 256  # that go through the encoder together


class Imputer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Fills in missing cells: numbers by their prediction, strings by the likeliest known one.

    Args:
        model: a name of the catalogue that is trained with the objective `masked_cells`.
        steps: of pretraining on the rows that `fit` gets.
        options: further overrides of the recipe.
        random_state: of everything random.
    """

    def __init__(
        self,
        model: str = "unitabe-small",
        *,
        steps: int = 800,
        options: tuple[str, ...] = (),
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.model = model
        self.steps = steps
        self.options = options
        self.random_state = random_state

    def fit(self, X: object, y: object = None) -> Self:  # noqa: N803
        """Pretrains on the rows; `y` is ignored."""
        table = read_table(X)
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        options = (f"train.steps={self.steps}", "train.loggers=[]", *self.options)
        with tempfile.TemporaryDirectory() as folder:
            run = pretrain_tables(
                {"rows": table}, Path(folder) / "run", model=self.model, options=options, seed=seed
            )
            self.encoder_, self.objective_ = restore_objective(run)
        self.columns_ = table.columns
        self.known_ = Table(table.columns, tuple(_levels(cells) for cells in table.cells), 0)
        return self

    def transform(self, X: object) -> NDArray[Any]:  # noqa: N803
        """(N, C) without gaps: float64 where all columns are numbers, else objects."""
        check_is_fitted(self)
        table = read_table(X).like(self.columns_).pick([c.name for c in self.columns_])
        parts = [
            self._fill(table.take(np.arange(start, min(start + _ROWS, table.rows))))
            for start in range(0, table.rows, _ROWS)
        ]
        if not parts:
            return np.empty((0, len(table.columns)))
        filled = np.concatenate(parts)
        numeric = all(column.kind == "number" for column in self.columns_)
        return filled.astype(np.float64) if numeric else filled

    @torch.inference_mode()
    def _fill(self, table: Table) -> NDArray[Any]:
        encoder, objective = self.encoder_, self.objective_
        assert isinstance(encoder, UniTabE)
        assert isinstance(objective, MaskedCells)
        whole = concatenate([self.known_, table])
        batch = encoder.preprocess.collate([encoder.preprocess(whole)])
        gaps = batch["cell_value"] == MISSING
        batch["cell_value"] = batch["cell_value"].masked_fill(gaps, HIDDEN)
        numbers, states = objective.predict(encoder, batch)
        columns = batch["cell_column"]
        values = np.array([cells.values() for cells in whole.cells], dtype=object).T
        flat = values.reshape(-1)
        owned = {int(i) for i in batch["value_column"]}
        texts = [level for cells in whole.cells for level in cells.levels]
        for i in gaps.nonzero().flatten().tolist():
            column = int(columns[i])
            if whole.columns[column].kind == "number" or column not in owned:
                facts = whole.columns[column]
                flat[i] = float(numbers[i]) * facts.std + facts.mean
            else:
                scores = objective.scores(encoder, batch, states[i : i + 1], columns[i : i + 1])
                flat[i] = texts[int(scores.argmax())]
        return flat.reshape(values.shape)


def _levels(cells: Cells) -> Cells:
    """No rows, all strings."""
    return replace(
        cells,
        numbers=None if cells.numbers is None else cells.numbers[:0],
        codes=None if cells.codes is None else cells.codes[:0],
    )
