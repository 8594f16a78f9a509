"""A shard's name -> a plain local tar and its index: downloads, inflates and indexes as needed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.data.listing import ShardName
from zoo.data.remote.cache import LocalCopy, ShardCache
from zoo.data.remote.store import RemoteFile, is_remote, stat_remote
from zoo.data.shard.index import Event, ShardIndex
from zoo.data.shard.indexing import open_index
from zoo.data.shard.inflate import inflated
from zoo.data.shard.opened import OpenShard

__all__ = ["LocalShard", "local_shard", "version_of"]


@dataclass(frozen=True, slots=True)
class LocalShard:
    """A tar on this machine; a downloaded one stays in the cache until `close`."""

    path: Path
    index: ShardIndex
    copy: LocalCopy | None = None

    def open(self, require: Sequence[str]) -> OpenShard:
        """Opens it for reading; closing that closes this."""
        return OpenShard(self.path, self.index, require, self.copy)

    def close(self) -> None:
        """Lets the cache remove it."""
        if self.copy is not None:
            self.copy.close()


def version_of(name: ShardName) -> RemoteFile | None:
    """The version of a remote shard to read: the manifest's, or the store's of now."""
    if not is_remote(name.name):
        return None
    if name.sha256 is not None:
        return RemoteFile(name.name, size=name.bytes, sha256=name.sha256)
    return stat_remote(name.name)


def local_shard(name: ShardName, version: RemoteFile | None) -> LocalShard:
    """The shard here, whatever its status.

    Raises:
        DataError, IntegrityError, UsageError, StorageError: it is not there, or cannot be brought.
    """
    if version is None:
        return LocalShard(*_plain(Path(name.name), immutable=False))
    copy = ShardCache().open(version)
    try:
        return LocalShard(*_plain(copy.path, immutable=True), copy)
    except BaseException:
        copy.close()
        raise


def _plain(path: Path, *, immutable: bool) -> tuple[Path, ShardIndex]:
    index = open_index(path, immutable=immutable)
    if index.facts.status != "compressed":
        return path, index
    path = inflated(path)
    inner = open_index(path, immutable=True)
    status = "compressed" if inner.facts.status == "ok" else inner.facts.status
    events: tuple[Event, ...] = (*index.facts.events, *inner.facts.events)
    return path, replace(inner, facts=replace(inner.facts, status=status, events=events))
