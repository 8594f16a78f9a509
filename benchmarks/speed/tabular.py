"""Rows a second of 100,000 rows x 20 mixed columns: blocks -> arrays on one thread, and training.

Peers: JSON lines with the standard library, and Parquet with row groups of a block's size. The
training step packs, hides and trains `unitabe-small` on 8 blocks of 16 rows.
"""

import io
import json
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from zoo.benchmarks.speed.timing import alternate, report
from zoo.modalities.tabular.arrow import cells_of, to_arrow
from zoo.modalities.tabular.codec import TabularCodec
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Table
from zoo.registry.build import build_objective

import zoo

ROWS, BLOCK = 100_000, 1024
STEP = 128  # rows of a training step
THREADS = (1, 2)


def synthetic() -> Table:
    """8 floats, 4 integers, 4 categories, 2 texts, a boolean; some cells missing."""
    generator = np.random.default_rng(0)
    columns: dict[str, object] = {}
    for i in range(8):
        x = generator.standard_normal(ROWS)
        columns[f"float {i}"] = np.where(generator.random(ROWS) < 0.04, np.nan, x).tolist()
    for i in range(4):
        columns[f"integer {i}"] = generator.integers(0, 1000, ROWS).tolist()
        columns[f"category {i}"] = generator.choice(["low", "medium", "high"], ROWS).tolist()
    for i in range(2):
        words = generator.integers(0, 900, (ROWS, 6)).tolist()
        columns[f"text {i}"] = [" ".join(f"word{w}" for w in row) for row in words]
    columns["flag"] = (generator.random(ROWS) < 0.5).tolist()
    columns["second"] = generator.integers(0, 86_400, ROWS).tolist()
    return read_table(columns)


def decoders(table: Table) -> dict[str, Callable[[], object]]:
    """All rows, in several stored forms, to arrays or dicts."""
    codec, zstd = TabularCodec(), TabularCodec("zstd")
    parts = [table.take(np.arange(s, min(s + BLOCK, ROWS))) for s in range(0, ROWS, BLOCK)]
    blocks = [codec.encode({"table": part}) for part in parts]
    packed = [zstd.encode({"table": part}) for part in parts]
    rows = zip(*(cells.values() for cells in table.cells), strict=True)
    lines = [json.dumps(dict(zip(table.names, row, strict=True))) for row in rows]
    sink = io.BytesIO()
    # A dictionary of the whole table would be written into every row group.
    whole = to_arrow(table)
    texts = [pa.types.is_dictionary(column.type) for column in whole.columns]
    pairs = zip(whole.columns, texts, strict=True)
    plain = [column.cast(pa.string()) if text else column for column, text in pairs]
    pq.write_table(pa.table(plain, names=whole.column_names), sink, row_group_size=BLOCK)
    return {
        "json lines to dicts": lambda: [json.loads(line) for line in lines],
        "parquet to arrays": lambda: _parquet(sink.getvalue()),
        "arrow blocks to arrays": lambda: [codec.decode(block) for block in blocks],
        "arrow blocks with zstd": lambda: [zstd.decode(block) for block in packed],
    }


def _parquet(data: bytes) -> list[object]:
    file = pq.ParquetFile(pa.BufferReader(data))
    batches = (file.read_row_group(i, use_threads=False) for i in range(file.num_row_groups))
    return [next(cells_of(n, batch.column(n))) for batch in batches for n in batch.column_names]


def training(table: Table, threads: int) -> Callable[[], object]:
    """One step of the card's objective on 8 x 16 rows, preparation included."""
    encoder = zoo.create("unitabe-small", seed=0)
    encoder.preprocess.fit([{"table": table.take(np.arange(2000))}])
    objective = build_objective({"name": "masked_cells", "recall": 1.0}, encoder)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *objective.parameters()])
    generator = torch.Generator().manual_seed(0)
    block: dict[str, object] = {"table": table.take(np.arange(BLOCK))}

    def step() -> None:
        torch.set_num_threads(threads)
        parts = [objective.prepare(block, encoder.preprocess, generator) for _ in range(STEP // 16)]
        loss = objective(encoder, encoder.preprocess.collate(parts)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Decoding in seconds of the processor, as one thread has them; then training on 1 and 2."""
    pa.set_cpu_count(1)
    table = synthetic()
    seconds = alternate(decoders(table), 3, time.process_time)
    report("tabular_decoding", seconds, base="json lines to dicts")
    _rows(seconds, ROWS)
    steps = {f"step of {STEP} rows, {n} thread{'s' * (n > 1)}": training(table, n) for n in THREADS}
    seconds = alternate(steps, 20)
    report("tabular_step", seconds, base=next(iter(seconds)))
    _rows(seconds, STEP)


def _rows(seconds: Mapping[str, list[float]], count: int) -> None:
    for name, times in seconds.items():
        print(f"{name:<34} {count / statistics.median(times):>12,.0f} rows/s")


if __name__ == "__main__":
    main()
