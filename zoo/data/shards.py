"""Samples of many shards, numbered from 0; any of them is one read away."""

import hashlib
import resource
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.listing import ShardName, Shards, list_shards
from zoo.data.remote.store import RemoteFile, is_remote
from zoo.data.shard.index import Event, ShardIndex
from zoo.data.shard.local import LocalShard, local_shard, version_of
from zoo.data.shard.opened import Arenas, OpenShard, Read, Where
from zoo.errors import DataError, UsageError

__all__ = ["ShardSet"]

# Shards that are kept open: a pool of the order takes its blocks from as many.
_OPEN = 1024


class ShardSet:
    """Samples of several shards, numbered in the order of the shards.

    Attributes:
        names: the shards.
        events: what is to be known about the shards that were indexed so far, by name.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        require: Sequence[str] = (),
        strict: bool = False,
        allow_missing: bool = False,
        check: bool = True,
    ) -> None:
        """Lists shards; those without a manifest are indexed, once.

        Args:
            shards: a folder, a brace list such as "shards/{00..63}.tar", a glob, one tar, or a
                list of these; local or remote.
            require: extensions without which a sample counts as bad.
            strict: any damage is an error, and so is reading a bad sample.
            allow_missing: leave out shards that are no tars, instead of refusing the whole.
            check: compare what is read with the checksums of shards that zoo wrote.

        Raises:
            UsageError: nothing is there.
            DataError: a shard is no tar, or `strict` and damaged; names it.
        """
        self.require, self.strict, self.check = tuple(require), strict, check
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._arenas = Arenas()
        self._versions: dict[str, RemoteFile | None] = {}
        self.events: dict[str, tuple[Event, ...]] = {}
        self.names: list[ShardName] = []
        counts, refused = [], []
        self._sizes: list[int] = []  # bytes of each shard
        for name in list_shards(shards):
            try:
                count, size = self._count(name)
            except DataError as error:
                if not allow_missing or strict or error.code != "NOT_TAR":
                    raise
                refused.append(str(error))
                self.events[name.shown] = (Event("NOT_TAR", detail="left out"),)
                continue
            self.names.append(name)
            counts.append(count)
            self._sizes.append(size)
        self._ends = np.cumsum(counts, dtype=np.int64)
        if not len(self):
            raise UsageError(f"{shards}: the shards hold no samples" + "".join(refused[:1]))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def counts(self) -> NDArray[np.int64]:
        """(S,) samples of each shard, bad ones included."""
        return np.diff(self._ends, prepend=0)

    @property
    def fingerprint(self) -> str:
        """Digest of which shards there are and what they hold: equal for the same samples."""
        digest = hashlib.sha256()
        columns = (self.names, self.counts.tolist(), self._sizes)
        for name, count, size in zip(*columns, strict=True):
            digest.update(f"{name.base}\0{count}\0{size}\n".encode())
        return digest.hexdigest()

    def where(self, index: int) -> Where:
        """Shard, number in it, and key of a sample: `str(...)` is for messages."""
        shards, numbers = self._locate(np.array([index]))
        shard, number = int(shards[0]), int(numbers[0])
        return Where(self.names[shard].shown, number, self._opened(shard).key(number))

    def key(self, index: int) -> str:
        """The sample's key."""
        return self.where(index).key

    def read(self, index: int) -> dict[str, bytes]:
        """Every member of a sample by extension.

        Raises:
            DataError: the sample is bad, or the shard cannot be read; names both.
        """
        [(_, sample)] = self.read_many(np.array([index]))
        if isinstance(sample, DataError):
            raise DataError(f"{self.where(index)}: {sample}", code=sample.code)
        return {extension: bytes(data) for extension, data in sample.items()}

    def read_many(self, ids: NDArray[np.int64]) -> Iterator[Read]:
        """Samples as they lie on the disk: (place in `ids`, members, or what is wrong with it).

        Members are views into memory that is used again once nobody holds them.

        Raises:
            DataError: a shard cannot be read, with code IO; no sample is bad.
        """
        shards, numbers = self._locate(ids)
        for shard in np.unique(shards).tolist():
            places = np.flatnonzero(shards == shard)
            opened = self._opened(shard)
            yield from opened.read(numbers[places], places, self._arenas, check=self.check)

    def _locate(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and number within the shard of samples."""
        shards = np.searchsorted(self._ends, ids, side="right")
        return shards, ids - (self._ends - self.counts)[shards]

    def index(self, shard: int) -> ShardIndex:
        """The index of a shard."""
        return self._opened(shard).index

    def _count(self, name: ShardName) -> tuple[int, int]:
        """Samples and bytes of a shard: what its manifest says, or its index."""
        if name.samples is not None and name.bytes is not None and not self.strict:
            path = Path(name.name)
            if is_remote(name.name) or (path.is_file() and path.stat().st_size == name.bytes):
                return name.samples, name.bytes
        local = self._local(name)
        index, size = local.index, local.path.stat().st_size
        local.close()
        # A cut shard keeps the numbers of the samples behind it; the lost ones count as bad.
        lost = index.facts.status == "damaged" and name.samples is not None
        count = max(len(index), name.samples or 0) if lost else len(index)
        return count, size

    def _local(self, name: ShardName) -> LocalShard:
        """The shard on this machine; always of the version that was met first.

        Raises:
            DataError: it is no tar, or `strict` and not as it should be.
        """
        if name.name not in self._versions:
            self._versions[name.name] = version_of(name)
        local = local_shard(name, self._versions[name.name])
        index = local.index
        self.events[name.shown] = index.facts.events
        codes = {event.code for event in index.damaged}
        if index.facts.status == "rejected":
            local.close()
            raise DataError(
                f"{name.shown}: not a tar; remove it, or leave it out with "
                "loader.allow_missing=true",
                code="NOT_TAR",
            )
        if self.strict and (codes or not index.has(self.require).all()):
            local.close()
            said = ", ".join(sorted(codes)) or "MISSING_PART"
            raise DataError(
                f"{name.shown}: damaged ({said}); zoo shards verify shows where", code=said
            )
        return local

    def _opened(self, shard: int) -> OpenShard:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        while len(self._open) >= min(_OPEN, _descriptors() // 2):
            self._open.popitem(last=False)[1].close()
        opened = self._local(self.names[shard]).open(self.require)
        self._open[shard] = opened
        return opened

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def __getstate__(self) -> dict[str, object]:
        # Descriptors and memory do not cross processes, and threads share neither.
        return self.__dict__ | {"_open": OrderedDict(), "_arenas": Arenas()}

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()


@cache
def _descriptors() -> int:
    """Files that this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
