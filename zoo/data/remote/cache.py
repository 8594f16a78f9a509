"""Whole remote shards in a bounded folder that all processes of a node share.

`<key>.shard` is complete, `<key>.part` is on its way; the key is a digest of URL and version, so
that versions never mix. The locks are on these files themselves and end with their process, however
it ends: shared for who reads, exclusive for who writes or removes.
"""

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedRandom, FileIO
from pathlib import Path
from types import TracebackType

from zoo.data.remote.retry import retried, shown
from zoo.data.remote.store import RemoteFile, changed, open_remote, unchanged
from zoo.errors import DataError, IntegrityError, StorageError, UsageError
from zoo.files import cache_folder, storage_errors

__all__ = ["LocalCopy", "ShardCache"]

_SHARD, _PART = ".shard", ".part"
_POLL = 0.05  # seconds between two looks at another process's download
_STALE = 7 * 24 * 3600.0  # seconds after which nobody will resume a download
_LIMIT = "100 GiB"


def _default_folder() -> Path:
    return cache_folder() / "shards"


def _default_limit() -> int:
    text = os.environ.get("ZOO_CACHE_LIMIT", _LIMIT)
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"ZOO_CACHE_LIMIT={text!r}: write a size such as 50 GiB")
    return int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))


@dataclass(frozen=True, slots=True)
class LocalCopy:
    """A whole file in the cache; it stays there until this is closed."""

    path: Path
    _lock: FileIO = field(repr=False)

    def close(self) -> None:
        """Lets the cache remove the file when it needs the room."""
        self._lock.close()

    def __enter__(self) -> "LocalCopy":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class ShardCache:
    """Downloads each file once a node; the least recently used ones go when room is needed.

    Attributes:
        folder: on a local disk.
        limit_bytes: of all files together; files in use may exceed it.
    """

    folder: Path = field(default_factory=_default_folder)
    limit_bytes: int = field(default_factory=_default_limit)

    def open(self, file: RemoteFile) -> LocalCopy:
        """The whole content of a file, downloaded unless it is here; waits for who downloads it.

        Raises:
            UsageError: the store refuses, or the file is larger than the cache may be.
            DataError: the store does not answer, or has another version by now; code IO.
            IntegrityError: what came has not the sha256 that it should have.
            StorageError: the folder cannot be written to, or the disk is full.
        """
        path = self.folder / f"{_key(file)}{_SHARD}"
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                found = _opened(path) or self._downloaded(file, path)
                if found is None:
                    time.sleep(_POLL)
                    continue
                fcntl.flock(found, fcntl.LOCK_SH)
                if os.fstat(found.fileno()).st_size == file.size:
                    _mark_used(found.fileno())
                    return LocalCopy(path, found)
                found.close()  # damaged since it was complete
                path.unlink(missing_ok=True)

    def _downloaded(self, file: RemoteFile, path: Path) -> FileIO | None:
        """The file at `path`; None where somebody else is about it."""
        part = path.with_suffix(_PART)
        with _exclusive(part, os.O_CREAT) as draft:
            if draft is None:
                return None
            if path.exists():
                part.unlink()
            else:
                self._complete(file, draft, part)
                part.rename(path)
            return _opened(path)

    def _complete(self, file: RemoteFile, draft: BufferedRandom, part: Path) -> None:
        """Fills `draft` with all of the file, from where a former process stopped."""
        size = _size(file)
        begun = draft.seek(0, os.SEEK_END) if _is_resumable(file) else 0
        if begun > size:
            begun = 0
        draft.truncate(begun)
        self._make_room(file, size - begun)
        retried(file.url, lambda: _receive(file, draft, part), draft.tell)
        draft.flush()
        os.fsync(draft.fileno())
        if file.sha256 is None:
            if not unchanged(file):
                part.unlink()
                raise changed(file)
            return
        draft.seek(0)
        found = hashlib.file_digest(draft, "sha256").hexdigest()
        if found == file.sha256.lower():
            return
        if begun:  # of another version, or what a power cut left
            draft.truncate(0)
            return self._complete(file, draft, part)
        part.unlink()
        raise IntegrityError(
            f"{shown(file.url)}: its sha256 is {found}, not {file.sha256} as it should be; get the "
            "right list of shards, or upload the shard again"
        )

    def _make_room(self, file: RemoteFile, needed: int) -> None:
        """Removes what was not used for longest until `needed` bytes fit, and stale downloads."""
        if _size(file) > self.limit_bytes:
            raise UsageError(
                f"{shown(file.url)}: {_size(file):,} bytes, more than the cache may hold "
                f"({self.limit_bytes:,}); raise ZOO_CACHE_LIMIT"
            )
        entries = self._entries()
        total = sum(facts.st_size for _, facts in entries)
        missing = needed - shutil.disk_usage(self.folder).free
        over = max(total + needed - self.limit_bytes, missing)
        now = time.time()
        for path, facts in entries:
            stale = path.suffix == _PART and now - facts.st_mtime > _STALE
            if (over > 0 or stale) and _evict(path):
                over -= facts.st_size
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise StorageError(
                f"{self.folder}: {needed:,} bytes are needed and {free:,} are free: free some "
                "space, or let ZOO_CACHE name a folder on a larger disk"
            )

    def _entries(self) -> list[tuple[Path, os.stat_result]]:
        """Unfinished downloads, then shards, each from the least recently used on."""
        found = []
        for path in self.folder.iterdir():
            if path.suffix in (_SHARD, _PART):
                with suppress(FileNotFoundError):
                    found.append((path, path.lstat()))
        return sorted(found, key=lambda entry: (entry[0].suffix == _SHARD, entry[1].st_atime))


def _key(file: RemoteFile) -> str:
    version = file.sha256 or f"{file.etag or ''} {file.size}"
    return hashlib.sha256(f"{file.url}\0{version}".encode()).hexdigest()


def _size(file: RemoteFile) -> int:
    if file.size is None:
        raise DataError(
            f"{shown(file.url)}: the store does not tell its size, so that a cut download would "
            "pass for a whole one; choose another store",
            code="IO",
        )
    return file.size


def _is_resumable(file: RemoteFile) -> bool:
    """Whether bytes of two requests are of one version for sure, or checked afterwards."""
    return file.sha256 is not None or bool(file.etag and not file.etag.startswith("W/"))


def _receive(file: RemoteFile, draft: BufferedRandom, part: Path) -> None:
    """One try to append what is missing."""
    size = _size(file)
    start = draft.seek(0, os.SEEK_END) if _is_resumable(file) else 0
    if start == size > 0:
        return
    with open_remote(file, start) as (begin, pieces):
        with storage_errors(part):
            draft.seek(begin)
            draft.truncate()
        for piece in pieces:
            if draft.tell() + len(piece) > size:
                raise changed(file)
            with storage_errors(part):
                draft.write(piece)
    if draft.tell() < size:
        raise ConnectionError("fewer bytes than announced")


@contextmanager
def _exclusive(path: Path, flags: int = 0) -> Iterator[BufferedRandom | None]:
    """The file at `path` while nobody else reads, writes or removes it; None where one does."""
    with os.fdopen(os.open(path, os.O_RDWR | flags, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(file.fileno()), path.lstat())
        except (BlockingIOError, FileNotFoundError):
            mine = False  # whoever had it may have renamed or removed it, too
        yield file if mine else None


def _evict(path: Path) -> bool:
    """Removes an entry, and what is kept beside it, unless it is in use."""
    with suppress(FileNotFoundError, PermissionError), _exclusive(path) as file:
        if file is not None:
            path.unlink()
            for beside in path.parent.glob(f"{path.name}.*"):  # its index
                beside.unlink(missing_ok=True)
            return True
    return False


def _mark_used(descriptor: int) -> None:
    """Sets the time of last access, which many file systems do not keep by themselves."""
    with suppress(OSError):  # it may be another user's
        os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))


def _opened(path: Path) -> FileIO | None:
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
