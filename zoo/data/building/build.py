"""Samples -> a folder of shards: planned, written by any number of workers, continued after a kill.

What a shard holds depends on the samples, the options and the seed, never on who writes it. While a
folder is unfinished it has a `build.json`, which says what is being built; the manifest comes last.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.building.claim import claimed
from zoo.data.building.engines import ENGINES
from zoo.data.building.sources import Source
from zoo.data.building.unit import Built, Measure, ShardSpec, Spread, build_shard
from zoo.data.order import Purpose, key, perm
from zoo.data.shard.tar import BLOCK, padded
from zoo.data.shard.write import MANIFEST, ShardRow, read_row, write_manifest, write_shard
from zoo.errors import UnknownNameError, UsageError
from zoo.files import write_atomic

__all__ = ["SKIPPED", "BuildOptions", "build_shards", "cut", "write_shards"]

SKIPPED = "skipped.jsonl"
Sample = tuple[str, Mapping[str, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How samples become shards."""

    shard_bytes: int = 1_000_000_000  # a shard holds less, or one sample
    samples_per_shard: int = 10_000
    shuffle: bool = False
    seed: int = 0  # of the shuffling

    def __post_init__(self) -> None:
        if min(self.shard_bytes, self.samples_per_shard) < 1:
            raise UsageError("a shard must hold at least one byte and one sample")
        if self.seed < 0:
            raise UsageError(f"the seed must be 0 or more, not {self.seed}")


def build_shards(
    source: Source,
    folder: Path,
    options: BuildOptions = BuildOptions(),
    *,
    facts: Mapping[str, object] | None = None,
    measure: Measure | None = None,
    engine: str = "local",
    workers: int | None = None,
    progress: bool = False,
) -> dict[str, object]:
    """Writes `00000.tar`, ... and then manifest.json; continues what was interrupted.

    Args:
        source: the samples.
        folder: of the shards; must not hold other ones.
        options: how samples become shards.
        facts: more lines of the manifest, such as the licence.
        measure: numbers of a sample, whose spread goes to the manifest; can be pickled.
        engine: who does the work, a name of `zoo.data.building.engines`.
        workers: processes (0: this one), by default as many as there are cores.
        progress: show a bar where there is a terminal.

    Returns:
        The manifest.

    Raises:
        UsageError: the folder is in use for something else.
        DataError: a sample cannot be read; names it.
        StorageError: the disk is full or read-only.
    """
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    folder = folder.absolute()
    facts = {"source": source.facts, "options": asdict(options), **(facts or {})}
    what = json.dumps({"facts": facts, "stamp": source.stamp}, sort_keys=True, default=str)
    with claimed(folder, what):
        if not (folder / MANIFEST).exists():
            specs, built = _specs(source, folder, options, measure), list[Built]()
            results = ENGINES[engine](build_shard, specs, workers)
            with closing(results), _bar(len(source.sizes), progress) as advance:
                for one in results:
                    built.append(one)
                    advance(one)
            _finish(folder, source, sorted(built, key=lambda one: one.name), facts)
    manifest: dict[str, object] = json.loads((folder / MANIFEST).read_text())
    return manifest


def cut(sizes: NDArray[np.int64], options: BuildOptions) -> NDArray[np.int64]:
    """Where shards begin and the last one ends: (shards + 1,).

    Args:
        sizes: (n,) bytes of each sample.
        options: how much goes into one shard.
    """
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < len(sizes):
        begin = bounds[-1]
        before = int(ends[begin - 1]) if begin else 0
        full = int(np.searchsorted(ends, before + options.shard_bytes, side="right"))
        bounds.append(min(max(full, begin + 1), begin + options.samples_per_shard, len(sizes)))
    return np.array(bounds)


def _specs(
    source: Source, folder: Path, options: BuildOptions, measure: Measure | None
) -> list[ShardSpec]:
    ids = np.arange(len(source.sizes))
    if options.shuffle:
        n = np.uint64(len(ids))
        with np.errstate(over="ignore"):
            ids = perm(ids.astype(np.uint64), n, key(options.seed, Purpose.SHUFFLE)).astype(
                np.int64
            )
    bounds = cut(source.sizes[ids], options)
    digits = max(5, len(str(len(bounds) - 2)))
    return [
        ShardSpec(
            path=folder / f"{number:0{digits}d}.tar",
            places=source.places.part(ids[begin:end]),
            skip_bad=source.bad.skip,
            measure=measure,
        )
        for number, (begin, end) in enumerate(pairwise(bounds.tolist()))
    ]


def _finish(
    folder: Path, source: Source, built: Sequence[Built], facts: Mapping[str, object]
) -> None:
    """Writes which samples were bad, and the manifest."""
    rows = [one.row for one in built if one.row is not None]
    skipped = source.bad.rows + [row for one in built for row in one.skipped]
    if not rows:
        first = skipped[0]
        raise UsageError(
            f"{folder}: all samples are bad, the first is {first['where']}: {first['reason']}"
        )
    if skipped:
        write_atomic(folder / SKIPPED, "".join(json.dumps(row) + "\n" for row in skipped))
    spreads = defaultdict[str, list[Spread]](list)
    for one in built:
        for name, spread in one.measured.items():
            spreads[name].append(spread)
    measured = {}
    for name in sorted(spreads):
        whole = Spread.of(spreads[name])
        mean = whole.sum / whole.count
        measured[name] = {"count": whole.count, "min": whole.min, "mean": mean, "max": whole.max}
    found = {"classes": source.classes, "measured": measured, "skipped": len(skipped)}
    write_manifest(folder, rows, **{name: fact for name, fact in found.items() if fact}, **facts)


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[Built], None]]:
    """Samples done, for a person who watches."""
    if not progress:
        yield lambda one: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (MofNCompleteColumn(), BarColumn(bar_width=None), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=True) as bar:
        task = bar.add_task("samples", total=total)
        yield lambda one: bar.advance(task, (one.row.samples if one.row else 0) + len(one.skipped))


def write_shards(
    samples: Iterable[Sample],
    folder: str | Path,
    *,
    samples_per_shard: int = 10_000,
    bytes_per_shard: int = 1_000_000_000,
) -> int:
    """Writes `00000.tar`, ... and then manifest.json; the same samples give the same bytes.

    The same call continues where a killed one stopped; the samples of shards that are there are
    taken from the iterable, compared in number and size, and not written again.

    Args:
        samples: (key, {extension: bytes}); keys without dots.
        folder: must not hold other shards.
        samples_per_shard: the most that go into one tar.
        bytes_per_shard: the most, unless one sample has more.

    Returns:
        The number of samples.

    Raises:
        UsageError: there are no samples, or the folder is in use.
        StorageError: the disk is full or read-only; no file has its final name half-written.
    """
    options = BuildOptions(shard_bytes=bytes_per_shard, samples_per_shard=samples_per_shard)
    folder, rows = Path(folder), list[ShardRow]()
    with claimed(folder, f"iterable {options}"):
        for shard in _stacks(samples, options):
            path = folder / f"{len(rows):05d}.tar"
            row = read_row(path)
            if row is None:
                row = write_shard(path, shard)
            elif not _fits(row, shard):
                raise UsageError(f"{path}: holds other samples; remove the folder to start again")
            rows.append(row)
        if not rows:
            raise UsageError(f"{folder}: there are no samples to write")
        write_manifest(folder, rows)
    return sum(row.samples for row in rows)


def _stacks(samples: Iterable[Sample], options: BuildOptions) -> Iterator[Iterator[Sample]]:
    """The samples of one shard after the other, each to be used up before the next."""
    iterator = iter(samples)
    item = next(iterator, None)

    def stack() -> Iterator[Sample]:
        nonlocal item
        count = size = 0
        while item is not None:
            size += sum(BLOCK + padded(len(data)) for data in item[1].values())
            if count and (size > options.shard_bytes or count == options.samples_per_shard):
                return
            yield item
            item, count = next(iterator, None), count + 1

    while item is not None:
        yield stack()


def _fits(row: ShardRow, samples: Iterable[Sample]) -> bool:
    """Whether a shard holds as many samples, parts and bytes as these."""
    count, parts = 0, dict[str, tuple[int, int]]()
    for _, members in samples:
        count += 1
        for extension, data in members.items():
            number, size = parts.get(extension, (0, 0))
            parts[extension] = number + 1, size + len(data)
    return count == row.samples and parts == {
        extension: (stats.count, stats.bytes) for extension, stats in row.parts.items()
    }
