"""Compressed shards have no random access: they are inflated once, into the cache."""

import bz2
import gzip
import hashlib
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from zoo.errors import DataError
from zoo.files import atomic_open, cache_folder

__all__ = ["inflated"]

_OPENERS: dict[bytes, Callable[[Path], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7z": lzma.LZMAFile,
}
_CHUNK = 4 << 20
_RATIO, _FREE = 200, 16 << 20  # a bomb inflates more than 200-fold, beyond the first 16 MiB


def inflated(path: Path) -> Path:
    """The plain tar of a gzip, bzip2 or xz file, made when it is not in the cache yet.

    Raises:
        DataError: it cannot be inflated, or is a bomb.
        StorageError: the cache is full.
    """
    facts = path.stat()
    about = f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}"
    target = cache_folder() / "inflated" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.tar"
    if target.exists():
        return target
    with path.open("rb") as file:
        magic = file.read(3)
    opener = next((o for begin, o in _OPENERS.items() if magic.startswith(begin)), None)
    if opener is None:
        raise DataError(
            f"{path}: compressed with zstd; decompress it first (zstd -d)", code="COMPRESSED"
        )
    limit = max(_FREE, facts.st_size * _RATIO)
    with opener(path) as source, atomic_open(target) as out:
        _copy(path, source, out, limit)
    return target


def _copy(path: Path, source: io.BufferedIOBase, out: BinaryIO, limit: int) -> None:
    done = 0
    try:
        while data := source.read(_CHUNK):
            done += len(data)
            if done > limit:
                raise DataError(
                    f"{path}: inflates more than {_RATIO}-fold; not read", code="TOO_LARGE"
                )
            out.write(data)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: cannot inflate it ({error})", code="COMPRESSED") from None
    except OSError as error:
        if error.errno is None:  # how bz2 and gzip say that the data is wrong
            raise DataError(f"{path}: cannot inflate it ({error})", code="COMPRESSED") from None
        raise
