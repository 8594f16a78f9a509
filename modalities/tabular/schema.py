"""The fixed schema of one table, and its rows as ids: what FT-Transformer and SAINT read.

Numbers come first, then strings, each in the table's order.

Notation: R rows, C columns, V strings of all columns, M cells.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Raw, Sample
from zoo.modalities.tables import MISSING, NUMBER, SPECIAL_VALUES, TablePreprocess
from zoo.modalities.tabular.preprocess import TYPES, table_of
from zoo.modalities.tabular.table import Column, Table

from zoo.errors import DataError, UsageError

__all__ = ["FixedConfig", "FixedPreprocess", "FixedPreprocessConfig", "Schema"]

SCHEMA_FILE = "schema.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPreprocessConfig:
    """Constants; the schema is learned from the table and stored beside the weights."""

    rows: int = 32  # of a block that one training sample draws
    clip: float = 8.0  # largest standardised number


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedConfig:
    """The schema's sizes: what the table must have."""

    numbers: int = 1  # columns of numbers
    levels: tuple[int, ...] = ()  # distinct strings of each other column


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns in their order, with the statistics of the table, and their strings."""

    columns: tuple[Column, ...]
    levels: tuple[tuple[str, ...], ...]  # none for numbers

    @classmethod
    def of(cls, tables: Iterable[Table]) -> "Schema":
        """Of blocks of one table."""
        columns: tuple[Column, ...] = ()
        found: list[set[str]] = []
        for table in tables:
            if not columns:
                columns, found = table.columns, [set() for _ in table.columns]
            if table.names != [column.name for column in columns]:
                raise DataError(
                    f"tables with different columns, {[c.name for c in columns][:8]} and "
                    f"{table.names[:8]}: this encoder is for one table; unitabe-small reads any"
                )
            for column, cells, levels in zip(columns, table.cells, found, strict=True):
                if cells.numbers is not None and cells.codes is not None:
                    raise DataError(
                        f"column {column.name!r} mixes numbers and text: say which it is with "
                        "read_table(rows, kinds={...})"
                    )
                levels.update(cells.levels)
        order = sorted(range(len(columns)), key=lambda i: columns[i].kind != "number")
        return cls(tuple(columns[i] for i in order), tuple(tuple(sorted(found[i])) for i in order))

    @property
    def sizes(self) -> FixedConfig:
        """What an encoder of this table has."""
        numbers = sum(column.kind == "number" for column in self.columns)
        return FixedConfig(numbers=numbers, levels=tuple(map(len, self.levels[numbers:])))


class FixedPreprocess(TablePreprocess):
    """A table of the schema -> fields as in `preprocess`, where ids stand for names and strings.

    `names` (C, 1) and `values` (V, 1) count all columns and all strings from 1, and are the same in
    every batch; a string that was never seen is a missing cell.
    """

    def __init__(self, config: FixedPreprocessConfig, sizes: FixedConfig) -> None:
        self.config, self.sizes = config, sizes
        self._schema: Schema | None = None

    @property
    def ready(self) -> bool:
        """False until a schema was learned or loaded."""
        return self._schema is not None

    @property
    def schema(self) -> Schema:
        """The table's.

        Raises:
            UsageError: there is none yet.
        """
        if self._schema is None:
            raise UsageError(
                "this encoder has no schema yet: pretraining learns one, zoo.load brings it, and "
                "encoder.preprocess.fit([{'table': table}]) takes that of a table"
            )
        return self._schema

    def fit(self, samples: Iterable[Sample]) -> None:
        """Learns the schema of blocks of one table.

        Raises:
            DataError: tables differ, or they do not have the columns that the encoder was made for.
        """
        self._take(Schema.of(map(table_of, samples)))

    def _take(self, schema: Schema) -> None:
        sizes = schema.sizes
        if (sizes.numbers, sizes.levels) != (self.sizes.numbers, self.sizes.levels):
            raise DataError(
                f"the encoder was made for {_said(self.sizes)}, the table has {_said(sizes)}: give "
                "these sizes (encoder.numbers and encoder.levels of a recipe)"
            )
        self._schema = schema

    def assets(self) -> dict[str, bytes]:
        """schema.json, once there is one."""
        if self._schema is None:
            return {}
        facts = {
            "columns": [asdict(column) for column in self._schema.columns],
            "levels": self._schema.levels,
        }
        return {SCHEMA_FILE: json.dumps(facts, indent=1).encode()}

    def load_assets(self, assets: Mapping[str, bytes]) -> None:
        """Takes schema.json.

        Raises:
            DataError: it is no schema, or another encoder's.
        """
        if SCHEMA_FILE not in assets:
            return
        try:
            facts = json.loads(assets[SCHEMA_FILE])
            columns = tuple(Column(**column) for column in facts["columns"])
            schema = Schema(columns, tuple(map(tuple, facts["levels"])))
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{SCHEMA_FILE} is no schema that zoo wrote") from None
        self._take(schema)

    def __call__(self, raw: Raw | Table) -> Batch:
        """All rows; statistics are the schema's."""
        schema, table = self.schema, table_of(raw)
        names = [column.name for column in schema.columns]
        if differing := sorted(set(names) ^ set(table.names)):
            raise DataError(f"columns {differing} are not both here and in the encoder's table")
        table = table.pick(names).like(schema.columns)
        numbers = np.zeros((table.rows, len(names)), np.float32)
        values = np.full((table.rows, len(names)), MISSING, np.int64)
        for i in range(self.sizes.numbers):
            x = table.standardised(i)
            present = ~np.isnan(x)
            numbers[present, i] = np.clip(x[present], -self.config.clip, self.config.clip)
            values[present, i] = NUMBER
        start = SPECIAL_VALUES
        for i, levels in enumerate(schema.levels):
            place = {level: start + code for code, level in enumerate(levels)}
            found = [*(place.get(level, MISSING) for level in table.cells[i].levels), MISSING]
            if levels and (codes := table.cells[i].codes) is not None:
                values[:, i] = np.array(found)[codes]
            start += len(levels)
        return self._fields(numbers, values)

    def _fields(self, numbers: np.ndarray, values: np.ndarray) -> Batch:
        rows, columns = numbers.shape
        owners = [i for i, levels in enumerate(self.schema.levels) for _ in levels]
        return {
            "names": torch.arange(1, columns + 1)[:, None],
            "types": torch.tensor([TYPES[column.kind] for column in self.schema.columns]),
            "values": torch.arange(1, len(owners) + 1)[:, None],
            "value_column": torch.tensor(owners, dtype=torch.int64),
            "cell_column": torch.arange(columns).repeat(rows),
            "cell_number": torch.from_numpy(numbers.reshape(-1)),
            "cell_value": torch.from_numpy(values.reshape(-1)),
            "lengths": torch.full((rows,), columns),
        }

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """`config.rows` random rows."""
        table = table_of(sample)
        rows = torch.randperm(table.rows, generator=generator)[: self.config.rows]
        return self(table.take(rows.numpy()))

    def column_names(self, sample: Sample) -> list[str]:
        """Of the schema."""
        return [column.name for column in self.schema.columns]

    def length(self, sample: Batch) -> int:
        """Cells of all rows."""
        return int(sample["lengths"].sum())

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """The rows of all blocks; the schema stands there once."""
        batch, start = {}, 0
        parts: dict[str, list[Tensor]] = {}
        for sample in samples:
            for name, value in sample.items():
                parts.setdefault(name, []).append(value + start * name.endswith("_index"))
            start += len(sample["cell_value"])
        for name, several in parts.items():
            once = name in ("names", "types", "values", "value_column")
            batch[name] = several[0] if once else torch.cat(several)
        return batch


def _said(sizes: FixedConfig) -> str:
    return f"numbers={sizes.numbers} levels={[*sizes.levels]}"
