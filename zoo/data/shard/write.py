"""Samples -> one tar with its index; and the manifest of a folder of them.

A shard gets its final name when all of it is on the disk. The index goes first, so that a shard
that is there has one; equal samples give equal bytes.
"""

import hashlib
import json
import os
import queue
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zoo.data.shard.index import ShardFacts, ShardIndex
from zoo.data.shard.indexing import MAX_MEMBER, SUFFIX, read_index
from zoo.data.shard.tar import BLOCK, header, padding
from zoo.errors import UsageError
from zoo.files import atomic_open, write_atomic

__all__ = [
    "FORMAT",
    "MANIFEST",
    "PartStats",
    "ShardRow",
    "read_row",
    "row_of",
    "write_manifest",
    "write_shard",
]

Sample = tuple[str, Mapping[str, bytes]]  # key, bytes by extension

MANIFEST = "manifest.json"
FORMAT = "zoo-shards/1"
_BUFFER = 4 << 20  # bytes that are written and digested at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStats:
    """All members with one extension."""

    count: int
    bytes: int
    smallest: int
    largest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRow:
    """One shard as the manifest lists it."""

    name: str
    samples: int
    bytes: int
    sha256: str
    parts: dict[str, PartStats]


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardRow:
    """Writes one tar, and its index beside it.

    Args:
        path: of the tar; replaced if it exists.
        samples: (key, {extension: bytes}); keys are relative names without dots in the last part,
            each once.

    Raises:
        UsageError: a key or an extension that no reader would give back, or a member over 1 GiB.
        StorageError: the disk is full or read-only; nothing has its final name half-written.
    """
    table = _Table()
    try:
        with atomic_open(path) as file:
            with _Digesting(file) as out:
                for key, members in _read(samples):
                    table.add(out, key, members)
                out.write(bytes(2 * BLOCK))
            # The rename keeps the time, so that the index can be written before it.
            facts = os.fstat(file.fileno())
            index = table.index(facts.st_size, facts.st_mtime_ns, out.hexdigest())
            write_atomic(path.with_name(path.name + SUFFIX), index.to_bytes())
    except _SourceError as error:
        raise error.reason from None
    return row_of(path.name, index, index.facts.sha256 or "")


class _SourceError(Exception):
    """Reading failed, not writing."""

    def __init__(self, reason: OSError) -> None:
        super().__init__()
        self.reason = reason


def _read(samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples; their own OSErrors shall not be taken for the disk's."""
    try:
        yield from samples
    except OSError as error:
        raise _SourceError(error) from None


def read_row(path: Path) -> ShardRow | None:
    """The row of a shard that `write_shard` finished; None for any other file."""
    try:
        facts = path.stat()
    except OSError:
        return None
    index = read_index(path.with_name(path.name + SUFFIX), facts.st_size, facts.st_mtime_ns)
    if index is None or index.facts.sha256 is None:
        return None
    return row_of(path.name, index, index.facts.sha256)


def write_manifest(folder: Path, rows: Sequence[ShardRow], **facts: object) -> None:
    """manifest.json: what the folder holds; `facts` come after the counts. Written last."""
    parts: dict[str, PartStats] = {}
    for row in rows:
        for extension, stats in row.parts.items():
            parts[extension] = _merge(parts[extension], stats) if extension in parts else stats
    table = {
        "format": FORMAT,
        "samples": sum(row.samples for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "parts": {extension: asdict(parts[extension]) for extension in sorted(parts)},
        **facts,
        "shards": [asdict(row) for row in rows],
    }
    write_atomic(folder / MANIFEST, json.dumps(table, indent=1, default=str) + "\n")


def _merge(a: PartStats, b: PartStats) -> PartStats:
    return PartStats(
        count=a.count + b.count,
        bytes=a.bytes + b.bytes,
        smallest=min(a.smallest, b.smallest),
        largest=max(a.largest, b.largest),
    )


def row_of(name: str, index: ShardIndex, sha256: str) -> ShardRow:
    """What a manifest says of a shard with this index."""
    parts = {}
    for number, extension in enumerate(index.facts.extensions):
        sizes = index.size[index.extension == number]
        if len(sizes):
            parts[extension] = PartStats(
                count=len(sizes),
                bytes=int(sizes.sum()),
                smallest=int(sizes.min()),
                largest=int(sizes.max()),
            )
    return ShardRow(
        name=name,
        samples=len(index),
        bytes=index.facts.bytes,
        sha256=sha256,
        parts=dict(sorted(parts.items())),
    )


class _Table:
    """Collects the index while members are written."""

    def __init__(self) -> None:
        self.rows, self.named = [0], list[int]()
        self.members: list[tuple[int, int, int, int]] = []  # extension, offset, size, crc
        self.extensions: dict[str, int] = {}
        self.keys: set[str] = set()

    def add(self, out: "_Digesting", key: str, members: Mapping[str, bytes]) -> None:
        """Writes one sample, its parts in the order of their extensions."""
        self._check(key, members)
        self.keys.add(key)
        self.named.append(out.position)
        for extension, data in sorted(members.items()):
            out.write(header(f"{key}.{extension}", len(data)))
            number = self.extensions.setdefault(extension, len(self.extensions))
            self.members.append((number, out.position, len(data), zlib.crc32(data)))
            out.write(data)
            out.write(padding(len(data)))
        self.rows.append(len(self.members))

    def _check(self, key: str, members: Mapping[str, bytes]) -> None:
        base = key.rpartition("/")[2]
        parts = key.split("/")
        wrong = not base or "." in base or ".." in parts or "" in parts or "\\" in key
        if wrong or key.startswith("__") or key[1:2] == ":" or not key.isprintable():
            raise UsageError(f"sample key {key!r}: keys are relative names without dots")
        if key in self.keys:
            raise UsageError(f"sample key {key!r}: comes twice in one shard")
        if not members:
            raise UsageError(f"sample {key!r}: has no members")
        for extension, data in members.items():
            fine = extension and extension == extension.lower() and extension.isprintable()
            if not fine or set(extension) & set("/\\") or extension.startswith("."):
                raise UsageError(
                    f"sample {key!r}: extension {extension!r} must be lower-case letters without "
                    "slashes, such as jpg or seg.png"
                )
            if len(data) > MAX_MEMBER:
                raise UsageError(f"sample {key!r}: its {extension} is larger than 1 GiB")

    def index(self, length: int, changed: int, sha256: str) -> ShardIndex:
        """The index of what was written."""
        columns = np.array(self.members, np.uint64).reshape(-1, 4).T
        return ShardIndex(
            facts=ShardFacts(
                bytes=length,
                changed=changed,
                status="ok",
                extensions=tuple(self.extensions),
                sha256=sha256,
            ),
            rows=np.array(self.rows, np.uint32),
            extension=columns[0].astype(np.uint16),
            offset=columns[1].copy(),
            size=columns[2].copy(),
            named=np.array(self.named, np.uint64),
            code=np.zeros(len(self.named), np.uint8),
            crc=columns[3].astype(np.uint32),
        )


class _Digesting:
    """Gathers writes; another thread takes the SHA-256 of what goes by."""

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        self._descriptor, self._parts, self._held = file.fileno(), list[bytes](), 0
        self._digest = hashlib.sha256()
        self._queue: queue.Queue[list[bytes] | None] = queue.Queue(maxsize=2)
        self._thread = threading.Thread(target=self._digest_all, daemon=True)

    def __enter__(self) -> "_Digesting":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._queue.put(None)
            self._thread.join()

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self.position += len(data)
        self._held += len(data)
        if self._held >= _BUFFER or len(self._parts) >= 512:
            self._flush()

    def _flush(self) -> None:
        parts, self._parts, self._held = self._parts, [], 0
        self._queue.put(parts)
        written, total = os.writev(self._descriptor, parts), sum(map(len, parts))
        if written < total:  # a disk nearly full, or a signal: the rest tells which
            rest = memoryview(b"".join(parts))[written:]
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def _digest_all(self) -> None:
        while (parts := self._queue.get()) is not None:
            for data in parts:
                self._digest.update(data)

    def hexdigest(self) -> str:
        """Of everything that was written, after the block."""
        return self._digest.hexdigest()
