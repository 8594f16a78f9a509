"""Encoders of one fixed schema: a token a cell, with weights of each column's own.

Each string of a column has a vector, so such an encoder is made for the columns and strings of one
table, and cannot be carried to another.

Notation: R rows, F columns of numbers, C columns in all, V strings of all columns, M cells, D
width.
"""

import torch
from torch import Tensor, nn
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.tables import MISSING, NUMBER, SPECIAL_VALUES
from zoo.modalities.tabular.numbers import Linear
from zoo.modalities.tabular.rows import RowEncoder
from zoo.modalities.tabular.schema import (
    FixedConfig,
    FixedPreprocess,
    FixedPreprocessConfig,
    Schema,
)
from zoo.modalities.tabular.table import Table

__all__ = ["CellTokens", "FixedEncoder"]


class CellTokens(nn.Module):
    """A class token, then a token a cell: x * w + b of a number, the vector of a string + b."""

    def __init__(self, sizes: FixedConfig, dim: int) -> None:
        super().__init__()
        bound = dim**-0.5
        self.cls_token = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        self.numbers = Linear(sizes.numbers, dim)
        self.embeddings = nn.ModuleList(nn.Embedding(count, dim) for count in sizes.levels)
        self.bias = nn.Parameter(torch.empty(len(sizes.levels), dim).uniform_(-bound, bound))
        # In place of the value where it is missing, and where an objective hides it.
        self.special_tokens = nn.Parameter(torch.empty(SPECIAL_VALUES, dim).uniform_(-bound, bound))

    @property
    def biases(self) -> Tensor:
        """(C, D) of all columns."""
        return torch.cat([self.numbers.bias, self.bias])

    @property
    def strings(self) -> Tensor:
        """(V, D) of all strings of all columns."""
        weights = [next(table.parameters()) for table in self.embeddings]
        return torch.cat([self.bias[:0], *weights])

    def forward(self, numbers: Tensor, values: Tensor) -> Tensor:
        """Both (R, C), values as in a batch's `cell_value` -> (R, 1 + C, D)."""
        x = torch.cat([self.special_tokens, self.strings])[values.clamp(min=0)] + self.biases
        count = len(self.numbers.bias)
        is_number = (values[:, :count] == NUMBER).unsqueeze(-1)
        told = torch.where(is_number, self.numbers(numbers[:, :count]), x[:, :count])
        return torch.cat([self.cls_token.expand(len(x), 1, -1), told, x[:, count:]], dim=1)


class FixedEncoder(RowEncoder):
    """Cells -> tokens of one fixed schema -> the trunk of a subclass, pooled by its class token."""

    preprocess_class = FixedPreprocessConfig
    num_prefix_tokens = 1
    token_a_cell = True
    preprocess: FixedPreprocess
    cells: CellTokens

    def __init__(self, sizes: FixedConfig, dim: int, preprocess: FixedPreprocessConfig) -> None:
        super().__init__()
        self.dim = self.word_dim = dim
        self.columns_in_all = sizes.numbers + len(sizes.levels)
        self.preprocess = FixedPreprocess(preprocess, sizes)
        self.cells = CellTokens(sizes, dim)

    @classmethod
    def sizes_for(cls, table: Table) -> dict[str, object]:
        """`numbers` and `levels` of the table."""
        sizes = Schema.of([table]).sizes
        return {"numbers": sizes.numbers, "levels": [*sizes.levels]}

    def columns(self, names: Tensor, types: Tensor) -> Tensor:
        """Ids (C, 1) -> (C, D): what all cells of a column have in common."""
        return self.cells.biases[names[:, 0] - 1]

    def strings(self, values: Tensor) -> Tensor:
        """Ids (V, 1) -> (V, D)."""
        return self.cells.strings[values[:, 0] - 1]

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (R, C, D); a cell that was taken out of its row is a missing one."""
        place, rows = self._places(batch), len(batch["lengths"])
        size = rows * self.columns_in_all
        values = batch["cell_value"].new_full((size,), MISSING)
        values = values.index_copy(0, place, batch["cell_value"])
        numbers = batch["cell_number"].new_zeros(size)
        numbers = numbers.index_copy(0, place, batch["cell_number"])
        x = self.cells(numbers.view(rows, -1), values.view(rows, -1))
        return Tokens(x=x[:, 1:])

    def _places(self, batch: Batch) -> Tensor:
        """(M,) where cells lie in a grid of rows and columns."""
        lengths = batch["lengths"]
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        return rows.to(batch["cell_column"].device) * self.columns_in_all + batch["cell_column"]

    def encode(self, tokens: Tokens) -> Tokens:
        """Class token in front, then the trunk."""
        cls_token = self.cells.cls_token.expand(len(tokens.x), 1, -1)
        return Tokens(x=self.trunk(torch.cat([cls_token, tokens.x], dim=1)), prefix=1)

    def trunk(self, x: Tensor) -> Tensor:
        """(R, 1 + C, D) -> the same shape."""
        raise NotImplementedError

    def pool(self, tokens: Tokens) -> Tensor:
        """(R, D): the class token."""
        return tokens.x[:, 0]

    def forward(self, batch: Batch) -> Features:
        """All tokens through the trunk; those of the cells that the batch has, end to end."""
        encoded = self.encode(self.tokenize(batch))
        tokens = encoded.x[:, 1:].flatten(0, 1)[self._places(batch)]
        pooled = self.pool(encoded)
        return Features(tokens=tokens.unsqueeze(0), pooled=pooled, lengths=batch["lengths"])
