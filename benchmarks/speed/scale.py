"""docs/scale.md: what 2,000,000,000 samples take, from rates that the other scripts measured."""

import json
from pathlib import Path

from zoo.benchmarks.speed.timing import RESULTS

SAMPLES = 2_000_000_000
KILOBYTES = 37.5  # of an image of 384 pixels with its caption (img2dataset's documentation)
PER_SHARD = 50_000
MEASURED_KB, MEASURED_SAMPLES = 105, 2_000  # of the samples that the scripts write and build
NODE_HOUR, TERABYTE_MONTH = 0.68, 23.0  # dollars; assumptions
PAGE = Path(__file__).parent.parent.parent / "docs" / "scale.md"

TEXT = """\
# Two billion samples

Made by `python -m zoo.benchmarks.speed.scale` from the medians in `benchmarks/results/`, which were
measured on 2 cores of a shared machine, in memory, with synthetic images of {kb} kB. What follows
from them by proportion is arithmetic, not a measurement. Prices are assumptions, for the order of
magnitude: {node:.2f} $ an hour for 16 cores, {month:.0f} $ a month for a terabyte.

| what | number | how |
|---|---|---|
| data | {terabytes:.0f} TB | {samples:,} samples of {size} kB |
| shards | {shards:,} of {shard_gb:.1f} GB | {per_shard:,} samples each; the Hub wants fewer than 100,000 files |
| building, bytes as they are | {build:,.0f} core-hours | {build_rate:,.0f} MB/s a process: read, checked, digested, written |
| of it writing, CRC-32, SHA-256 | {write:,.0f} core-hours | {write_rate:,.0f} MB/s |
| decoding every image once (`--modality`) | {decode:,.0f} core-hours | {decode_rate:,.0f} images/s a core, 500 x 375 |
| on 100 machines of 16 cores | {days:.2f} days | building and decoding, if disks and network keep up |
| cost of that | {cost:,.0f} $ once, {storage:,.0f} $ a month | cores by the hour; storage |
| index | {index:.0f} GB, {index_mb:.1f} MB a shard | {index_bytes:.0f} bytes a sample, mapped when a shard is opened |
| first indexing of tars that others wrote | {scan:,.0f} core-hours | {scan_rate:,.0f} members/s, two a sample |
| manifest | {manifest:.0f} MB | one row a shard |
| any position of the order | {seek:.1f} ms | no list of samples anywhere |
| one epoch on 8 GPUs, 3,000 images/s each | {epoch:.1f} days | {gbytes:.1f} GB/s, {cores:.0f} cores decode |

Build it in pieces that are whole at any time: `zoo shards build` takes one folder or one table,
writes finished shards only, and goes on where it was stopped; with `--engine ray` the same function
runs on a cluster. The listing of one input is held in memory (about 100 bytes a sample), so split
two billion rows into tables of some ten million each, one output folder a table, and train on all
folders at once: `--data` takes a brace list, and a mixture file gives each its weight.
"""  # noqa: E501 - tables have no shorter lines


def median(name: str, row: str) -> float:
    """Seconds."""
    table = json.loads((RESULTS / f"{name}.json").read_text())
    return table["rows"][row]["median_ms"] / 1e3


def render() -> str:
    """The page."""
    size = MEASURED_SAMPLES * MEASURED_KB / 1e3  # MB
    build_rate = size / median("data_building", "in one process")
    write_rate = size / median("data_writing", "zoo, with index and digests")
    decode_rate = 500 / median("data_decoded", "zoo, its codec and preprocess")
    scan_rate = 4_000 / median("data_index", "zoo, headers and grouping")
    megabytes = SAMPLES * KILOBYTES / 1e3
    shards = SAMPLES // PER_SHARD
    index_bytes = 2 * (2 + 8 + 8 + 4) + 4 + 8 + 1  # two members; row, name and code of a sample
    build, decode = megabytes / build_rate / 3600, SAMPLES / decode_rate / 3600
    return TEXT.format(
        kb=MEASURED_KB, samples=SAMPLES, size=KILOBYTES, terabytes=megabytes / 1e6, shards=shards,
        shard_gb=PER_SHARD * KILOBYTES / 1e6, per_shard=PER_SHARD, build=build,
        build_rate=build_rate, write=megabytes / write_rate / 3600, write_rate=write_rate,
        decode=decode, decode_rate=decode_rate, days=(build + decode) / 1600 / 24,
        node=NODE_HOUR, month=TERABYTE_MONTH, cost=(build + decode) / 16 * NODE_HOUR,
        storage=megabytes / 1e6 * TERABYTE_MONTH,
        index=index_bytes * SAMPLES / 1e9, index_mb=index_bytes * PER_SHARD / 1e6,
        index_bytes=index_bytes, scan=2 * SAMPLES / scan_rate / 3600, scan_rate=scan_rate,
        manifest=shards * 400 / 1e6, seek=1e3 * median("data_seek", "one position"),
        epoch=SAMPLES / 24_000 / 86_400, gbytes=24_000 * KILOBYTES / 1e6,
        cores=24_000 / decode_rate,
    )  # fmt: skip


if __name__ == "__main__":
    PAGE.write_text(render())
    print(PAGE.name, "written")
