"""Tables -> shards of blocks, and pretraining on them in one call."""

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.data.shard.write import ShardRow, write_manifest, write_shard
from zoo.errors import UsageError
from zoo.modalities.tabular.codec import TabularCodec
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.rows import RowEncoder
from zoo.modalities.tabular.table import Table
from zoo.models import create
from zoo.pretraining import pretrain
from zoo.runs import Run

__all__ = ["pretrain_tables", "sizes_for", "write_tables"]

Sample = tuple[str, dict[str, bytes]]  # key, bytes by extension


def write_tables(
    folder: str | Path,
    tables: Mapping[str, object],
    *,
    block: int = 1024,
    shard_bytes: int = 256 << 20,
    seed: int = 0,
    compression: str | None = None,
    labels: Mapping[str, Sequence[int]] | None = None,
) -> Path:
    """Shards of all tables, in blocks of rows that were shuffled within their table.

    Args:
        folder: of the shards.
        tables: whatever `read_table` takes, by name; a `Table` keeps its statistics.
        block: rows of a sample.
        shard_bytes: a shard ends with the block that reaches this size.
        seed: of the order of rows.
        compression: "zstd" where bandwidth is short.
        labels: for `zoo.probe`, the class of each row, by table: then a sample is one row.

    Raises:
        UsageError: there are no rows, or not one label for each.
        DataError: a table cannot be read.
    """
    folder = Path(folder)
    codec = TabularCodec(compression)  # type: ignore[arg-type]
    read = {name: read_table(source) for name, source in tables.items()}
    if not any(table.rows for table in read.values()):
        raise UsageError("no rows to write: give at least one table that has some")
    for name, table in read.items():
        if labels is not None and len(labels.get(name, ())) != table.rows:
            raise UsageError(
                f"table {name!r}: {len(labels.get(name, ()))} labels for {table.rows} rows; "
                "give one class, a whole number from 0, for each"
            )
    folder.mkdir(parents=True, exist_ok=True)
    samples = _samples(read, codec, block if labels is None else 1, seed, labels)
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
    tables: Mapping[str, Table],
    codec: TabularCodec,
    block: int,
    seed: int,
    labels: Mapping[str, Sequence[int]] | None,
) -> Iterator[Sample]:
    for number, (name, table) in enumerate(tables.items()):
        order = np.random.default_rng((seed, number)).permutation(table.rows)
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", name) or "table"
        for i, start in enumerate(range(0, table.rows, block)):
            rows = order[start : start + block]
            sample: dict[str, object] = {"table": table.take(rows)}
            if labels is not None:
                sample["label"] = int(labels[name][rows[0]])
            yield f"{number:04d}-{safe}-{i:06d}", codec.encode(sample)


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
        tables: whatever `read_table` takes, by name; no column may be a target. Only one for an
            encoder of one table, which gets that table's sizes.
        out: the run's folder.
        model: a name of the catalogue.
        options: overrides of its recipe, such as "train.steps=500".
        seed: of weights, order and masks.
    """
    read = {name: read_table(source) for name, source in tables.items()}
    if read:
        sizes = sizes_for(model, next(iter(read.values())))
        options = [*(f"encoder.{key}={value}" for key, value in sizes.items()), *options]
    with tempfile.TemporaryDirectory() as folder:
        shards = write_tables(folder, read, seed=seed)
        return pretrain(model, shards, out, options, seed=seed, device="cpu", progress=False)


def sizes_for(model: str, table: Table) -> dict[str, Any]:
    """Arguments of the architecture that follow from a table; none where any table will do."""
    with torch.device("meta"):
        encoder = create(model)
    return encoder.sizes_for(table) if isinstance(encoder, RowEncoder) else {}
