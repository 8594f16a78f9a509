"""Tables as objectives see them: what the cells of a batch hold, and what their encoders offer.

Notation: R rows, M cells, C columns, V distinct strings, P word pieces of one, E width of words.
"""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Preprocess, Sample, TokenEncoder

__all__ = [
    "END",
    "HIDDEN",
    "MISSING",
    "NUMBER",
    "PAD",
    "SPECIAL_VALUES",
    "START",
    "PieceEncoder",
    "PiecePreprocess",
    "TableEncoder",
    "TablePreprocess",
    "take_cells",
]

NUMBER, MISSING, HIDDEN = -1, 0, 1  # in `cell_value`; strings follow
SPECIAL_VALUES = 2
PAD, START, END = 0, 1, 2  # word pieces


class TablePreprocess(Preprocess):
    """Makes blocks of rows, `names` (C, P) to `lengths` (R,), of one table a sample."""

    @abstractmethod
    def column_names(self, sample: Sample) -> list[str]:
        """Of the table of a sample, in the order of its columns."""


class PiecePreprocess(TablePreprocess):
    """One that reads names and strings by word pieces."""

    @abstractmethod
    def pieces(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Word pieces of each text, at most so many."""


class TableEncoder(TokenEncoder):
    """Rows of packed cells, in any order of columns."""

    needs_words = "the cells of tables"
    word_dim: int  # E
    token_a_cell: bool  # tokens are the cells of a row, in their order

    @abstractmethod
    def columns(self, names: Tensor, types: Tensor) -> Tensor:
        """Names (C, P) and types (C,) -> (C, E)."""

    @abstractmethod
    def strings(self, values: Tensor) -> Tensor:
        """(V, P) ids -> (V, E), one vector a string."""


class PieceEncoder(TableEncoder):
    """One that knows names and strings by word pieces, so that new ones have vectors too."""

    needs_words = "tables in word pieces"
    spells: bool  # numbers are strings, and a row is pooled by its class token

    @property
    @abstractmethod
    def piece_table(self) -> Tensor:
        """(vocabulary, E) vectors of word pieces."""


def take_cells(batch: Batch, keep: Tensor) -> Batch:
    """The same block with only the cells at `keep` (M,) bool; rows may become empty."""
    rows = torch.repeat_interleave(torch.arange(len(batch["lengths"])), batch["lengths"])
    kept = {name: batch[name][keep] for name in ("cell_column", "cell_number", "cell_value")}
    lengths = torch.bincount(rows[keep], minlength=len(batch["lengths"]))
    return batch | kept | {"lengths": lengths}
