"""Tables -> packed cells: what the encoder takes, schemas of all kinds side by side.

A sample is a block of rows of one table. Its fields, with C columns, V distinct strings, M cells
and R rows, cells row by row:

| field | shape | meaning |
|---|---|---|
| `names` | (C, P) | word pieces of the columns' names, 0 is padding |
| `types` | (C,) | 0 number, 1 boolean, 2 string |
| `values` | (V, P) | word pieces of each distinct string of each column |
| `value_column` | (V,) | whose strings they are |
| `cell_column` | (M,) | the cell's column |
| `cell_number` | (M,) float32 | the standardised number, 0 where there is none |
| `cell_value` | (M,) | `NUMBER`, `MISSING`, `HIDDEN`, or 2 + a row of `values` |
| `lengths` | (R,) | cells of each row |

A batch has the same fields; `collate` shifts what points elsewhere (`*_column`, `*_value`,
`*_index`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from zoo.modalities.contracts import Batch, Raw, Sample
from zoo.modalities.tables import MISSING, NUMBER, SPECIAL_VALUES, PiecePreprocess
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Table
from zoo.modalities.tabular.words import Words

from zoo.errors import DataError, UsageError

__all__ = [
    "TYPES",
    "TabularPreprocess",
    "TabularPreprocessConfig",
    "digits",
    "table_of",
]

TOKENIZER_FILE = "tokenizer.json"
TYPES = {"number": 0, "boolean": 1, "category": 2, "text": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class TabularPreprocessConfig:
    """Constants that belong to a set of weights; the tokenizer is stored beside them."""

    rows: int = 32  # of a block that one training sample draws
    name_pieces: int = 50  # word pieces of a name, the rest is cut
    value_pieces: int = 50  # of a value
    clip: float = 8.0  # largest standardised number: beyond it only the sign counts
    max_cells: int = 4_000_000  # of one block: refused before memory is allocated


class TabularPreprocess(PiecePreprocess):
    """Table, file, frame, array or decoded sample -> the fields above."""

    def __init__(
        self,
        config: TabularPreprocessConfig,
        *,
        vocab_size: int,
        numbers: Literal["digits", "embedded"],
    ) -> None:
        self.config, self.vocab_size, self.numbers = config, vocab_size, numbers
        self._words: Words | None = None

    @property
    def ready(self) -> bool:
        """False until a tokenizer was trained or loaded."""
        return self._words is not None

    @property
    def words(self) -> Words:
        """The tokenizer.

        Raises:
            UsageError: there is none yet.
        """
        if self._words is None:
            raise UsageError(
                "this encoder has no tokenizer yet: pretraining trains one, zoo.load brings it, "
                "and encoder.preprocess.fit([{'table': table}]) makes one from tables"
            )
        return self._words

    def __call__(self, raw: Raw | Table) -> Batch:
        """All rows."""
        table = table_of(raw)
        count = table.rows * len(table.columns)
        if count > self.config.max_cells:
            raise DataError(
                f"{table.rows} rows of {len(table.columns)} columns are more than "
                f"max_cells={self.config.max_cells} at once: pass fewer rows or columns"
            )
        return self._pack(table)

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """`config.rows` random rows."""
        table = table_of(sample)
        rows = torch.randperm(table.rows, generator=generator)[: self.config.rows]
        return self(table.take(rows.numpy()))

    def column_names(self, sample: Sample) -> list[str]:
        """Of the table of a sample."""
        return table_of(sample).names

    def pieces(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Word pieces of each text, at most so many."""
        return self.words.encode(texts, most)

    def length(self, sample: Batch) -> int:
        """Cells of all rows."""
        return int(sample["lengths"].sum())

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """Packs the rows of all blocks end to end; tables keep their own columns and strings."""
        shifts = {
            "column": _starts([len(sample["names"]) for sample in samples]),
            "value": _starts([len(sample["values"]) for sample in samples]),
            "index": _starts([len(sample["cell_value"]) for sample in samples]),
        }
        batch = {}
        for name in samples[0]:
            parts = [sample[name] for sample in samples]
            kind = name.rpartition("_")[2]
            if kind in shifts:
                least = SPECIAL_VALUES if kind == "value" else 0  # what is special stays
                parts = [
                    torch.where(part >= least, part + shift, part)
                    for part, shift in zip(parts, shifts[kind], strict=True)
                ]
            batch[name] = torch.cat(_even(parts) if parts[0].ndim == 2 else parts)
        return batch

    def fit(self, samples: Iterable[Sample]) -> None:
        """Trains the tokenizer on names and strings."""
        texts: set[str] = set()
        for sample in samples:
            table = table_of(sample)
            texts.update(table.names)
            for cells in table.cells:
                texts.update(cells.levels)
        self._words = Words.train(texts, self.vocab_size)

    def assets(self) -> dict[str, bytes]:
        """tokenizer.json, once there is one."""
        return {} if self._words is None else {TOKENIZER_FILE: self._words.to_bytes()}

    def load_assets(self, assets: Mapping[str, bytes]) -> None:
        """Takes tokenizer.json.

        Raises:
            DataError: it is no tokenizer, or has more ids than the encoder's table.
        """
        if TOKENIZER_FILE not in assets:
            return
        words = Words.from_bytes(assets[TOKENIZER_FILE])
        if words.vocab_size > self.vocab_size:
            raise DataError(
                f"the tokenizer has {words.vocab_size} ids, the encoder only {self.vocab_size}"
            )
        self._words = words

    def _pack(self, table: Table) -> Batch:
        columns = len(table.columns)
        numbers = np.zeros((table.rows, columns), np.float32)
        values = np.full((table.rows, columns), MISSING, np.int64)
        texts: list[str] = []
        owners: list[int] = []
        for i in range(columns):
            found, levels = self._column(table, i, numbers[:, i])
            values[:, i] = np.where(found >= SPECIAL_VALUES, found + len(texts), found)
            texts += levels
            owners += [i] * len(levels)
        config, words = self.config, self.words
        return {
            "names": _padded(words.encode(table.names, config.name_pieces)),
            "types": torch.tensor([TYPES[column.kind] for column in table.columns]).long(),
            "values": _padded(words.encode(texts, config.value_pieces)),
            "value_column": torch.tensor(owners, dtype=torch.int64),
            "cell_column": torch.arange(columns).repeat(table.rows),
            "cell_number": torch.from_numpy(numbers.reshape(-1)),
            "cell_value": torch.from_numpy(values.reshape(-1)),
            "lengths": torch.full((table.rows,), columns),
        }

    def _column(
        self, table: Table, i: int, numbers: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Fills `numbers`; what stands in `cell_value`, from 0, and the column's strings."""
        cells = table.cells[i]
        levels = [*cells.levels]
        codes = np.full(table.rows, -1) if cells.codes is None else cells.codes.astype(np.int64)
        values = np.where(codes < 0, MISSING, codes + SPECIAL_VALUES)
        if cells.numbers is None:
            return values, levels
        present = ~np.isnan(cells.numbers)
        if self.numbers == "digits":
            distinct, places = np.unique(cells.numbers[present], return_inverse=True)
            values[present] = places + len(levels) + SPECIAL_VALUES
            return values, levels + [digits(value, cells.whole) for value in distinct.tolist()]
        standard = table.standardised(i)[present]
        numbers[present] = np.clip(standard, -self.config.clip, self.config.clip)
        values[present] = NUMBER
        return values, levels


def digits(number: float, whole: bool = False) -> str:
    """A number as UniTabE spells it: four decimals at most, every character a word of its own."""
    return " ".join(str(int(number) if whole else round(number, 4)))


def table_of(raw: object) -> Table:
    """The table of a decoded sample, or of anything that `read_table` takes."""
    return read_table(raw["table"] if isinstance(raw, dict) and "table" in raw else raw)


def _padded(ids: Sequence[Sequence[int]]) -> Tensor:
    width = max((len(one) for one in ids), default=1)
    table = np.zeros((len(ids), width), np.int64)
    for row, one in zip(table, ids, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(table)


def _even(parts: Sequence[Tensor]) -> list[Tensor]:
    width = max(part.shape[1] for part in parts)
    return [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]


def _starts(sizes: Sequence[int]) -> list[int]:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int).tolist()
