"""Masked cells: hide some cells of each row, and say what stood there.

A hidden number is predicted as its standardised value (squared error). A hidden string is found
among the strings of its own column in the batch (cross-entropy over that dictionary), scored
against their word vectors, so that no vocabulary of values is fixed. Losses are means over cells of
a type, then over the types that occur, so that text does not drown numbers.

This is the masked autoencoder of tables. `objectives/mae.py` drops hidden tokens and predicts them
from a fixed grid of positions; a row has no grid, and a hidden cell is known by its column's name
and type, so it stays in the trunk as its column's vector with a mask in place of the value.

Beside it, where `contrast` is above 0, UniTabE's contrastive term (arXiv 2307.09249): two
overlapping subsets of a row's columns find each other in the batch, by cosine.

Notation: M cells, K hidden ones, V distinct strings, R rows, C columns, D width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, normalize
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.tabular.encoder import UniTabE, mean_pieces
from zoo.modalities.tabular.preprocess import HIDDEN, MISSING, NUMBER, SPECIAL_VALUES, take_cells
from zoo.objectives.column_views import column_views, repeat_rows
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import nt_xent

__all__ = ["MaskedCells", "MaskedCellsConfig", "hide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedCellsConfig:
    """The pretext task."""

    mask_ratio: float = 0.4
    contrast: float = 0.0  # weight of the contrastive term
    temperature: float = 0.5
    partitions: int = 2
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")


class MaskedCells(Objective):
    """Batches need `target_index` (K,), `target_number` (K,), `target_value` (K,) from `views`."""

    requires: ClassVar[type[Encoder]] = UniTabE
    config_class = MaskedCellsConfig
    compares_samples = True

    def __init__(self, config: MaskedCellsConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, UniTabE)
        if encoder.config.tokens != "cells":
            raise ValueError("masked_cells needs one token a cell: set encoder.tokens=cells")
        self.config = config
        self.dense = nn.Linear(encoder.dim, encoder.dim)
        self.norm = nn.LayerNorm(encoder.dim)
        self.number = nn.Linear(encoder.dim, 1)
        self.query = nn.Linear(encoder.dim, encoder.config.embed_dim)

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
        """The sum of both terms; parts `numbers`, `strings` and `contrast`."""
        assert isinstance(encoder, UniTabE)
        features = encoder(batch)
        x = self._head(features.tokens[0, batch["target_index"]])
        value = batch["target_value"]
        parts = {}
        if (numeric := value == NUMBER).any():
            error = self.number(x[numeric]).squeeze(-1).float() - batch["target_number"][numeric]
            parts["numbers"] = error.square().mean()
        if (textual := value >= SPECIAL_VALUES).any():
            scores = self.scores(encoder, batch, x[textual], batch["target_column"][textual])
            parts["strings"] = cross_entropy(scores, value[textual] - SPECIAL_VALUES)
        total = sum(parts.values(), features.pooled.sum() * 0.0) / max(1, len(parts))
        if self.config.contrast:
            a, b = normalize(features.pooled.float(), dim=-1).unflatten(0, (-1, 2)).unbind(1)
            scale = torch.tensor(1 / self.config.temperature, device=a.device)
            parts["contrast"] = nt_xent(a, b, scale)
            total = total + self.config.contrast * parts["contrast"]
        return Losses(total=total, parts=parts)

    def scores(self, encoder: UniTabE, batch: Batch, x: Tensor, columns: Tensor) -> Tensor:
        """(K, V) float32: how well each string fits, -inf where it is of another column."""
        words = mean_pieces(encoder.unit.words(batch["values"]), batch["values"])
        scores = self.query(x) @ words.T / words.shape[-1] ** 0.5
        return scores.float().masked_fill(columns[:, None] != batch["value_column"], -torch.inf)

    def predict(self, encoder: UniTabE, batch: Batch) -> tuple[Tensor, Tensor]:
        """(M,) numbers and (M, D) states of all cells, as hidden ones would be predicted."""
        x = self._head(encoder(batch).tokens[0])
        return self.number(x).squeeze(-1), x

    def count(self, batch: Batch) -> int:
        """Hidden cells."""
        return len(batch["target_index"])

    def _head(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(gelu(self.dense(x)))
        return normed


def hide(batch: Batch, hidden: Tensor) -> Batch:
    """The batch without the values of the cells that are `hidden` (M,), and what they were."""
    index = hidden.nonzero().flatten()
    targets = {
        "target_index": index,
        "target_number": batch["cell_number"][index],
        "target_value": batch["cell_value"][index],
        "target_column": batch["cell_column"][index],
    }
    shown = {
        "cell_value": batch["cell_value"].masked_fill(hidden, HIDDEN),
        "cell_number": batch["cell_number"].masked_fill(hidden, 0.0),
    }
    return batch | shown | targets
