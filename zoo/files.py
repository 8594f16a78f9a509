"""Files that are whole or absent, and the digest that tells: what every writer of zoo uses."""

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from zoo.errors import StorageError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "atomic_folder",
    "atomic_open",
    "cache_folder",
    "save_tensors",
    "sha256_of",
    "sha256_once",
    "storage_errors",
    "sweep_temporary",
    "sync",
    "write_atomic",
]

_TEMPORARY = ".tmp-"
_TICK = 1_000_000_000  # nanoseconds: more than between two times that a file system can tell
_digests: dict[tuple[int, ...], str] = {}  # of files as they were
_REASONS = {
    errno.EFBIG: "a file may not grow that large here: raise the limit or choose another folder",
    errno.ENOSPC: "the disk is full: free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up: free some space and run the same command again",
    errno.EACCES: "no permission to write there: choose another folder",
    errno.EPERM: "no permission to write there: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EIO: "the disk fails: check it, or choose another folder",
    errno.ENOENT: "its folder is gone: put it back or choose another one",
    errno.ESTALE: "the network file system lost it: mount it again or choose another folder",
    errno.ENOTDIR: "a file is in the way of a folder: choose another name",
    errno.EEXIST: "a file of that name is in the way: choose another name",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about writing `path` into one line.

    Raises:
        StorageError: what, where, what to do.
    """
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, str(error.strerror or error))
        raise StorageError(f"{path}: cannot write ({reason})") from error


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to; it gets its name when all of it is on the disk, or never."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A temporary folder that becomes `path` when its content is complete, or vanishes.

    `draft` is the temporary folder where others have begun to fill it.
    """
    temporary = draft or path.with_name(f"{_TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    with storage_errors(path):
        if draft is None:
            temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
            sync(temporary)
            temporary.rename(path)
            _sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """The whole content under its name, or nothing."""
    with atomic_open(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_tensors(
    path: Path, tensors: Mapping[str, "Tensor"], *, notes: Mapping[str, str] | None = None
) -> None:
    """Named tensors as safetensors, copied to the CPU; a full disk is an OSError like any other."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(whole, path, metadata={"format": "pt", **(notes or {})})
        path.chmod(mode)  # the library's files are for their owner only
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def sweep_temporary(folder: Path) -> None:
    """Removes what a killed writer left; only for a folder that this process owns."""
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """The same, computed once in a process unless the file changes."""
    facts = path.stat()
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    if key not in _digests:
        is_settled = time.time_ns() - facts.st_ctime_ns > _TICK
        digest = sha256_of(path)
        if not is_settled:  # a change in the same tick of the file system's clock would not show
            return digest
        _digests[key] = digest
    return _digests[key]


def sync(path: Path) -> None:
    """Until the file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        sync(folder)


def cache_folder() -> Path:
    """Where things are kept that can be made again: $ZOO_CACHE, else the user's cache folder."""
    if told := os.environ.get("ZOO_CACHE"):
        return Path(told)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "zoo"
