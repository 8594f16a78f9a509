"""Bytes in order, inflated where they are gzip: never more than asked for, checksums compared."""

import importlib
import zlib
from contextlib import suppress
from types import ModuleType
from typing import Protocol

from zoo.modalities.contracts import Buffer

from zoo.errors import DataError

__all__ = ["Stream", "open_stream", "read_all"]

_MAGIC = b"\x1f\x8b"
_FEED = 256 << 10  # bytes at a time; what a member leaves of them is copied
_MEMBERS = 100_000  # in blocks of 64 KiB that is more than any volume has
_GZIP = 31  # zlib's wbits for a gzip member with its header and checksum


class Stream(Protocol):
    """What a reader of a file format needs."""

    def read(self, size: int) -> bytes:
        """The next bytes, fewer only where they end.

        Raises:
            DataError: they are damaged.
        """
        ...


def open_stream(data: Buffer, name: str) -> Stream:
    """The bytes as they are, or what they inflate to."""
    return _Gzip(data, name) if bytes(data[:2]) == _MAGIC else _Plain(data)


def read_all(stream: Stream, size: int, name: str, head: bytes = b"") -> bytes:
    """The `size` bytes that a header promises, and no other.

    Args:
        stream: ends behind them.
        size: of the voxels.
        name: in messages.
        head: those of them that were read along with the header.

    Raises:
        DataError: there are fewer, or more, or the checksum is wrong.
    """
    body = head + stream.read(max(0, size - len(head)))
    if len(body) < size:
        missing = f"{len(body)} of {size} bytes of voxels"
        raise DataError(f"{name}: truncated ({missing})", code="TRUNCATED")
    if len(body) > size or stream.read(1):  # of a gzip this reads the checksum too
        raise DataError(f"{name}: holds more than the {size} bytes of voxels its header tells of")
    return body


class _Plain:
    def __init__(self, data: Buffer) -> None:
        self._rest = memoryview(data)

    def read(self, size: int) -> bytes:
        head, self._rest = self._rest[:size], self._rest[size:]
        return bytes(head)


class _Gzip:
    """One gzip member or several, end to end."""

    def __init__(self, data: Buffer, name: str) -> None:
        self._data, self._name, self._at, self._members = memoryview(data), name, 0, 1
        self._zlib = _fastest()
        self._member = self._zlib.decompressobj(_GZIP)

    def read(self, size: int) -> bytes:
        parts, missing = list[bytes](), size
        while missing:
            if self._member.eof and not self._next():
                break
            part = self._inflate(missing)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _next(self) -> bool:
        """Begins another member, if there is one: tapes and some programs leave padding."""
        if bytes(self._data[self._at : self._at + 2]) != _MAGIC:
            return False
        self._members += 1
        if self._members > _MEMBERS:
            raise DataError(f"{self._name}: gzip of more than {_MEMBERS} parts", code="TOO_LARGE")
        self._member = self._zlib.decompressobj(_GZIP)
        return True

    def _inflate(self, size: int) -> bytes:
        fed, member = self._data[self._at : self._at + _FEED], self._member
        try:
            part: bytes = member.decompress(fed, size)
        except self._zlib.error as error:
            raise DataError(f"{self._name}: damaged gzip ({error})") from None
        left = member.unused_data if member.eof else member.unconsumed_tail
        self._at += len(fed) - len(left)
        if not (part or member.eof or fed):
            raise DataError(f"{self._name}: truncated gzip", code="TRUNCATED")
        return part


def _fastest() -> ModuleType:
    with suppress(ImportError):
        return importlib.import_module("isal.isal_zlib")  # twice as fast
    return zlib
