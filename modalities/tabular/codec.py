"""Tables in shards: a sample is a block of rows of one table, as one Arrow IPC stream (`arrow`).

About a thousand rows a block, uncompressed: the fastest form to read (specification `tabular`,
4.5); zstd where bandwidth is short. Numbers are float64, strings are dictionaries, and the
columns' kinds and statistics travel in the schema's metadata, so that a block is readable alone.
"""

import json
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from zoo.modalities.beside import decode_beside, encode_beside
from zoo.modalities.bounds import MAX_BYTES, check_size, decoding
from zoo.modalities.contracts import Buffer, Codec, Sample
from zoo.modalities.tabular.read import import_arrow
from zoo.modalities.tabular.table import Cells, Column, Kind, Table

from zoo.errors import DataError

__all__ = ["TabularCodec"]

MAX_ROWS = 1 << 20  # of a block
_KEY = b"zoo"
_KINDS = ("number", "boolean", "category", "text")


class TabularCodec(Codec):
    """{"table": Table, "facts": dict, "label": int, "text": str} <-> arrow, json, cls, txt.

    A label is of a table of one row.
    """

    def __init__(self, compression: Literal["zstd", "lz4"] | None = None) -> None:
        self.compression = compression

    def encode(self, raw: Sample) -> dict[str, bytes]:
        """The table, whole; equal tables give equal bytes."""
        pa = import_arrow()
        from zoo.modalities.tabular.arrow import to_arrow

        table = raw["table"]
        assert isinstance(table, Table)
        facts = [[c.name, c.kind, c.mean, c.std] for c in table.columns]
        block = to_arrow(table).replace_schema_metadata({_KEY: json.dumps(facts)})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=self.compression)
        with pa.ipc.new_stream(sink, block.schema, options=options) as writer:
            writer.write_table(block)
        return {"arrow": sink.getvalue().to_pybytes(), **encode_beside(raw)}

    def decode(self, members: Mapping[str, Buffer]) -> Sample:
        """{"table": Table} and the rest; a block of another writer is read with inferred kinds."""
        table, beside = self._table(members), decode_beside(members)
        if "label" in beside and table.rows != 1:
            raise DataError(f"a label (a cls member) is of one row, this block has {table.rows}")
        return {"table": table, **beside}

    def _table(self, members: Mapping[str, Buffer]) -> Table:
        if "arrow" not in members:
            raise DataError(
                f"no table member (arrow) among {sorted(members)}; zoo.tabular.write_tables makes "
                "shards of tables",
                code="MISSING_PART",
            )
        data = members["arrow"]
        check_size("arrow member", len(data), MAX_BYTES)
        pa = import_arrow()
        from zoo.modalities.tabular.arrow import cells_of
        from zoo.modalities.tabular.read import read_table

        with decoding("damaged arrow"):
            with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
                block = reader.read_all()
            check_size("rows of an arrow member:", block.num_rows, MAX_ROWS)
            block.validate()
            facts = (block.schema.metadata or {}).get(_KEY)
            if facts is None:
                return read_table(block)
            columns = tuple(_column(row) for row in json.loads(facts))
            if [column.name for column in columns] != block.column_names:
                raise DataError("the columns of an arrow member are not those of its metadata")
            cells = tuple(next(cells_of(c.name, block.column(i)))[1] for i, c in enumerate(columns))
            _check(columns, cells)
        return Table(columns, cells, block.num_rows)

    def measure(self, sample: Sample) -> dict[str, float]:
        """Rows, columns, and the share of missing cells."""
        table = sample["table"]
        assert isinstance(table, Table)
        missing = np.mean([cells.missing.mean() for cells in table.cells]) if table.rows else 0.0
        return {"rows": table.rows, "columns": len(table.columns), "missing": float(missing)}


def _column(row: tuple[str, Kind, float, float]) -> Column:
    name, kind, mean, std = row
    if kind not in _KINDS or not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise DataError(f"column {name!r} has the kind {kind!r}, mean {mean} and std {std}")
    return Column(name=str(name), kind=kind, mean=float(mean), std=float(std))


def _check(columns: tuple[Column, ...], cells: tuple[Cells, ...]) -> None:
    for column, values in zip(columns, cells, strict=True):
        if values.numbers is not None and np.isinf(values.numbers).any():
            raise DataError(f"infinity in column {column.name!r}", code="NONFINITE")
