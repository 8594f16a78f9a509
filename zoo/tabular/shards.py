"""Tables -> shards of blocks, and pretraining on them in one call."""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from zoo.data.shard.write import ShardRow, write_manifest, write_shard
from zoo.errors import UsageError
from zoo.modalities.tabular.codec import TabularCodec
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Table
from zoo.pretraining import pretrain
from zoo.runs import Run

__all__ = ["pretrain_tables", "write_tables"]

Sample = tuple[str, dict[str, bytes]]  # key, bytes by extension


def write_tables(
    folder: str | Path,
    tables: Mapping[str, object],
    *,
    block: int = 1024,
    shard_bytes: int = 256 << 20,
    seed: int = 0,
    compression: str | None = None,
) -> Path:
    """Shards of all tables, in blocks of rows that were shuffled within their table.

    Args:
        folder: of the shards.
        tables: whatever `read_table` takes, by name.
        block: rows of a sample.
        shard_bytes: a shard ends with the block that reaches this size.
        seed: of the order of rows.
        compression: "zstd" where bandwidth is short.

    Raises:
        UsageError: there are no rows.
        DataError: a table cannot be read.
    """
    folder = Path(folder)
    codec = TabularCodec(compression)  # type: ignore[arg-type]
    read = {name: read_table(source) for name, source in tables.items()}
    if not any(table.rows for table in read.values()):
        raise UsageError("no rows to write: give at least one table that has some")
    folder.mkdir(parents=True, exist_ok=True)
    samples = _samples(read, codec, block, seed)
    rows: list[ShardRow] = []
    for first in samples:
        path = folder / f"tables-{len(rows):06d}.tar"
        rows.append(write_shard(path, _up_to(first, samples, shard_bytes)))
    write_manifest(folder, rows)
    return folder


def _up_to(first: Sample, rest: Iterator[Sample], size: int) -> Iterator[Sample]:
    """`first` and what follows, until `size` bytes are reached; the others stay in `rest`."""
    sample: Sample | None = first
    while sample is not None:
        yield sample
        size -= sum(map(len, sample[1].values()))
        sample = next(rest, None) if size > 0 else None


def _samples(
    tables: Mapping[str, Table], codec: TabularCodec, block: int, seed: int
) -> Iterator[Sample]:
    for number, (name, table) in enumerate(tables.items()):
        order = np.random.default_rng((seed, number)).permutation(table.rows)
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "table"
        for i, start in enumerate(range(0, table.rows, block)):
            part = table.take(order[start : start + block])
            yield f"{number:04d}-{safe}-{i:06d}", codec.encode({"table": part})


def pretrain_tables(
    tables: Mapping[str, object],
    out: str | Path,
    *,
    model: str = "unitabe-small",
    options: Iterable[str] = (),
    seed: int = 0,
) -> Run:
    """Pretrains on unlabelled rows: `write_tables`, then `zoo.pretrain`.

    Args:
        tables: whatever `read_table` takes, by name; no column may be a target.
        out: the run's folder.
        model: a name of the catalogue.
        options: overrides of its recipe, such as "train.steps=500".
        seed: of weights, order and masks.
    """
    with tempfile.TemporaryDirectory() as folder:
        shards = write_tables(folder, tables, seed=seed)
        return pretrain(model, shards, out, options, seed=seed, device="cpu", progress=False)
