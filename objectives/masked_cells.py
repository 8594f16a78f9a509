"""Masked cells: hide some cells of each row, and say what stood there.

A hidden number is predicted as its standardised value (squared error). A hidden string is found
among the strings of its own column in the batch (cross-entropy over that dictionary), scored
against their word vectors, so that no vocabulary of values is fixed. Losses are means over cells of
a type, then over the types that occur, so that text does not drown numbers.

This is the masked autoencoder of tables. `objectives/mae.py` drops hidden tokens and predicts them
from a fixed grid of positions; a row has no grid, and a hidden cell is known by its column's name
and type, so it stays in the trunk as its column's vector with a mask in place of the value.

Beside it, where `recall` is above 0, the pooled vector alone has to tell every cell of the row by
its column (as the task "memory <column> :" of UniTabE's code): that trains the features that are
handed out, of which masked cells see nothing. A number is <recall(pooled), key(column)> / sqrt(D).

Where `contrast` is above 0, UniTabE's contrastive term (arXiv 2307.09249): two
overlapping subsets of a row's columns find each other in the batch, by cosine.

Notation: M cells, K hidden ones, V distinct strings, R rows, C columns, D width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, normalize
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.tables import (
    HIDDEN,
    MISSING,
    NUMBER,
    SPECIAL_VALUES,
    TableEncoder,
    take_cells,
)
from zoo.objectives.column_views import column_views, repeat_rows
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import nt_xent

__all__ = ["MaskedCells", "MaskedCellsConfig", "hide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedCellsConfig:
    """The pretext task."""

    mask_ratio: float = 0.4
    recall: float = 0.0  # weight of what the pooled vector tells of the cells
    contrast: float = 0.0  # weight of the contrastive term
    temperature: float = 0.5
    partitions: int = 2
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")


class MaskedCells(Objective):
    """Batches need from `views` what `hide` adds."""

    requires: ClassVar[type[Encoder]] = TableEncoder
    config_class = MaskedCellsConfig
    compares_samples = True

    def __init__(self, config: MaskedCellsConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, TableEncoder)
        if not encoder.token_a_cell:
            raise ValueError("masked_cells needs one token a cell: set encoder.tokens=cells")
        self.config = config
        self.dense = nn.Linear(encoder.dim, encoder.dim)
        self.norm = nn.LayerNorm(encoder.dim)
        self.number = nn.Linear(encoder.dim, 1)
        self.query = nn.Linear(encoder.dim, encoder.word_dim)
        if config.recall:
            self.recall = nn.Linear(encoder.dim, encoder.dim)
            self.key = nn.Linear(encoder.word_dim, encoder.dim)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Hides cells; with the contrastive term, of two column subsets of each row in turn."""
        if self.config.contrast:
            rows, columns = len(sample["lengths"]), len(sample["names"])
            keep = column_views(
                rows, columns, self.config.partitions, self.config.overlap, generator
            )
            sample = take_cells(repeat_rows(sample, 2), keep.flatten())
        present = sample["cell_value"] != MISSING
        chance = torch.rand(len(present), generator=generator)
        return hide(sample, (chance < self.config.mask_ratio) & present)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The weighted sum of all terms; parts `numbers`, `strings`, `recall` and `contrast`."""
        assert isinstance(encoder, TableEncoder)
        features = encoder(batch)
        index = batch["target_index"]
        x = self._head(features.tokens[0, index])
        parts = self._errors(encoder, batch, index, self.number(x).squeeze(-1), x)
        total = _mean(parts) + features.pooled.sum() * 0.0
        if self.config.recall:
            told = self._recall(encoder, batch, features.pooled)
            parts["recall"] = _mean(told)
            total = total + self.config.recall * parts["recall"]
        if self.config.contrast:
            a, b = normalize(features.pooled.float(), dim=-1).unflatten(0, (-1, 2)).unbind(1)
            scale = torch.tensor(1 / self.config.temperature, device=a.device)
            parts["contrast"] = nt_xent(a, b, scale)
            total = total + self.config.contrast * parts["contrast"]
        return Losses(total=total, parts=parts)

    def _errors(
        self, encoder: TableEncoder, batch: Batch, index: Tensor, numbers: Tensor, states: Tensor
    ) -> dict[str, Tensor]:
        """Of predicted numbers (K,) and states (K, D) of the cells at `index` (K,), by type."""
        value, parts = batch["true_value"][index], {}
        if (numeric := value == NUMBER).any():
            error = numbers[numeric].float() - batch["true_number"][index[numeric]]
            parts["numbers"] = error.square().mean()
        if (textual := value >= SPECIAL_VALUES).any():
            columns = batch["cell_column"][index[textual]]
            scores = self.scores(encoder, batch, states[textual], columns)
            parts["strings"] = cross_entropy(scores, value[textual] - SPECIAL_VALUES)
        return parts

    def _recall(self, encoder: TableEncoder, batch: Batch, pooled: Tensor) -> dict[str, Tensor]:
        """Errors of all cells, told by pooled vectors (R, D) and columns."""
        index = (batch["true_value"] != MISSING).nonzero().flatten()
        lengths = batch["lengths"]
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(index.device)
        keys = self.key(encoder.columns(batch["names"], batch["types"]))
        states = self.recall(pooled)[rows[index]] * keys[batch["cell_column"][index]]
        return self._errors(encoder, batch, index, states.sum(-1) / states.shape[-1] ** 0.5, states)

    def scores(self, encoder: TableEncoder, batch: Batch, x: Tensor, columns: Tensor) -> Tensor:
        """(K, V) float32: how well each string fits, -inf where it is of another column."""
        words = encoder.strings(batch["values"])
        scores = self.query(x) @ words.T / words.shape[-1] ** 0.5
        return scores.float().masked_fill(columns[:, None] != batch["value_column"], -torch.inf)

    def predict(self, encoder: TableEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """(M,) numbers and (M, D) states of all cells, as hidden ones would be predicted."""
        x = self._head(encoder(batch).tokens[0])
        return self.number(x).squeeze(-1), x

    def count(self, batch: Batch) -> int:
        """Hidden cells."""
        return len(batch["target_index"])

    def _head(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(gelu(self.dense(x)))
        return normed


def _mean(parts: dict[str, Tensor]) -> Tensor:
    """Over the types of cells that occur."""
    return torch.stack([*parts.values()]).mean() if parts else torch.zeros(())


def hide(batch: Batch, hidden: Tensor) -> Batch:
    """The batch without the values of the cells that are `hidden` (M,).

    `target_index` (K,) are those; `true_number` and `true_value` (M,) are what all cells hold.
    """
    return batch | {
        "cell_value": batch["cell_value"].masked_fill(hidden, HIDDEN),
        "cell_number": batch["cell_number"].masked_fill(hidden, 0.0),
        "true_value": batch["cell_value"],
        "true_number": batch["cell_number"],
        "target_index": hidden.nonzero().flatten(),
    }
