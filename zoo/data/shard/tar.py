"""Tar headers, both ways: find every member of an archive in one pass, and write members.

Reads ustar, PAX (`path`, `size`) and GNU (long names, base-256 sizes). Unlike Python's `tarfile`,
an unreadable header is never taken for the end of the archive: every damage is reported with its
place. Nothing here opens a name that an archive gives.
"""

import os
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

__all__ = ["BLOCK", "Break", "Member", "Scan", "header", "name_at", "padding", "scan"]

BLOCK = 512
MAX_EXTENDED = 1 << 20  # bytes of one PAX or GNU header; real ones hold a path
_NEAR = 16 << 10  # members shorter than this are read many headers at a time
_WINDOW = 256 << 10
_LOOK = 2 << 10  # read for one header: a short member and the header behind it come along
_SEARCH = 1 << 20  # read at once while looking for the next header
_LONG, _PAX = b"LK", b"xg"
_NO_DATA = b"123456"  # links, devices, folders, pipes
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_ZEROS = bytes(BLOCK)


class Member(NamedTuple):
    """One member; `kind` is the tar type flag."""

    name: bytes
    kind: int
    start: int  # of its first header: reading the name again begins here
    offset: int  # of its data
    size: int


@dataclass(frozen=True, slots=True)
class Break:
    """Damage: `members` were found before it."""

    code: str
    members: int
    detail: str
    name: bytes | None = None  # of the member that it cuts


@dataclass(slots=True)
class Scan:
    """What an archive holds."""

    members: list[Member] = field(default_factory=list)
    breaks: list[Break] = field(default_factory=list)


class _BadHeader(Exception):  # noqa: N818 - never leaves this module
    pass


class _Ends(Exception):  # noqa: N818 - the file ends inside a header
    pass


def scan(descriptor: int, length: int, *, ignore_end: bool = False) -> Scan:
    """Every member of the tar of `length` bytes that `descriptor` reads.

    With `ignore_end`, what follows the end of the archive is read too, if it is another one.

    Breaks carry the codes NOT_TAR, COMPRESSED, TRUNCATED, NO_EOF, BAD_HEADER and TRAILING_DATA.
    After a bad header the search goes on at the next valid one.
    """
    first = os.pread(descriptor, BLOCK, 0)
    if first.startswith(_COMPRESSED):
        return Scan(breaks=[Break("COMPRESSED", 0, "a compressed archive has no random access")])
    if len(first) < BLOCK or (first != _ZEROS and not _valid(first)):
        return Scan(breaks=[Break("NOT_TAR", 0, "no tar header at its beginning")])
    found = Scan()
    position = 0
    while position >= 0:
        position = _run(_Reader(descriptor, length, ignore_end), position, found)
    return found


class _Reader:
    """Blocks of a file, fetched together where they lie close."""

    def __init__(self, descriptor: int, length: int, ignore_end: bool = False) -> None:
        self.descriptor, self.length, self.ignore_end = descriptor, length, ignore_end
        self._data, self._from = b"", 0

    def block(self, position: int, *, near: bool) -> bytes:
        """The 512 bytes at `position`, shorter at the end."""
        at = position - self._from
        if at < 0 or at + BLOCK > len(self._data):
            self._data = os.pread(self.descriptor, _WINDOW if near else _LOOK, position)
            self._from, at = position, 0
        return self._data[at : at + BLOCK]

    def bytes(self, position: int, size: int) -> bytes:
        """Any bytes."""
        return os.pread(self.descriptor, size, position)


def _run(reader: _Reader, position: int, found: Scan) -> int:
    """Follows headers until the end or a damage; returns where to go on, or -1."""
    begin, headers = len(found.members), list[bytes]()
    stop, resume = _follow(reader, position, found.members, headers)
    bad = _first_invalid(headers)
    if bad < len(headers):  # what followed it was read from the wrong places
        resume = found.members[begin + bad].offset
        del found.members[begin + bad :]
        stop = Break("BAD_HEADER", begin + bad, "wrong checksum")
    if stop is not None:
        found.breaks.append(stop)
    # Where nothing came before, nothing tells a real header from one inside a member.
    return _search(reader, resume) if resume >= 0 and found.members else -1


def _follow(
    reader: _Reader, position: int, members: list[Member], headers: list[bytes]
) -> tuple[Break | None, int]:
    """From member to member, checksums unseen: they are checked together, which is faster."""
    near, last, override, start = False, 0, _PLAIN, position
    while True:
        head = reader.block(position, near=near)
        if len(head) < BLOCK or head == _ZEROS:
            return _end(reader, position, head, len(members))
        try:
            kind, digits = head[156], head[124:135]
            usual = head[135] == 0 and digits.isdigit()
            size = int(digits, 8) if usual else _size(head)
            if kind in _PAX or kind in _LONG:
                if not _valid(head):
                    raise _BadHeader("wrong checksum")
                override = _Override() if override is _PLAIN else override
                _extend(override, reader, position, kind, size)
                position += BLOCK + padded(size)
                continue
        except (_BadHeader, ValueError) as error:
            return Break("BAD_HEADER", len(members), str(error)), position + BLOCK
        except _Ends:
            return Break("TRUNCATED", len(members), "the file ends inside a header"), -1
        if override is not _PLAIN:
            size = size if override.size is None else override.size
            kind = ord("S") if override.sparse else kind
        name = override.name or _name(head)
        headers.append(head)
        room = reader.length - position - BLOCK
        members.append(Member(name, kind, start, position + BLOCK, min(size, max(room, 0))))
        if kind in _NO_DATA:
            size = 0
        elif size > room:
            return Break("TRUNCATED", len(members), "the file ends inside it", name), -1
        step = BLOCK + -(-size // BLOCK) * BLOCK
        near, last = step + last < _NEAR, step
        position += step
        override, start = _PLAIN, position


def _end(reader: _Reader, position: int, head: bytes, members: int) -> tuple[Break | None, int]:
    """What stands where a zero block or the end of the file was met, and where to go on."""
    if len(head) == 0:
        return Break("NO_EOF", members, "no end-of-archive blocks: the file may be cut"), -1
    if len(head) < BLOCK:
        cut = "the file ends inside a header"
        return Break("TRUNCATED", members, cut), -1
    second = reader.bytes(position + BLOCK, BLOCK)
    if len(second) < BLOCK:
        return Break("NO_EOF", members, "one end-of-archive block instead of two"), -1
    if second != _ZEROS:
        return Break("BAD_HEADER", members, "a zero block, then data"), position + BLOCK
    position += 2 * BLOCK
    while position < reader.length:
        rest = reader.bytes(position, _SEARCH)
        if not rest:
            break
        if rest.count(0) != len(rest):
            said = Break("TRAILING_DATA", members, "data after the end of the archive")
            return (None, position) if reader.ignore_end else (said, -1)
        position += len(rest)
    return None, -1


@dataclass(slots=True)
class _Override:
    """What extended headers say about the member that follows."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


_PLAIN = _Override()  # never changed


def name_at(descriptor: int, position: int) -> bytes:
    """The name of the member whose first header begins at `position`; empty if there is none."""
    reader, override = _Reader(descriptor, 0), _Override()
    try:
        while len(head := reader.block(position, near=False)) == BLOCK:
            kind, size = head[156], _size(head)
            if kind not in _PAX and kind not in _LONG:
                return override.name or _name(head)
            _extend(override, reader, position, kind, size)
            position += BLOCK + padded(size)
    except (_BadHeader, _Ends):
        pass
    return b""


def _extend(override: _Override, reader: _Reader, position: int, kind: int, size: int) -> None:
    """Takes in one PAX or GNU header."""
    if size > MAX_EXTENDED:
        raise _BadHeader("an extended header of absurd size")
    data = reader.bytes(position + BLOCK, size)
    if len(data) < size:
        raise _Ends
    if kind == ord("L"):
        override.name = data.split(b"\0", 1)[0]
    if kind != ord("x"):
        return
    while data and data[0]:
        digits, space, _ = data.partition(b" ")
        if not space or not digits.isdigit() or not len(digits) + 3 <= int(digits) <= len(data):
            raise _BadHeader("a PAX record of wrong length")
        record, data = data[len(digits) + 1 : int(digits) - 1], data[int(digits) :]
        keyword, _, value = record.partition(b"=")
        if keyword in (b"path", b"GNU.sparse.name"):
            override.name = value
        elif keyword == b"size":
            if not value.isdigit() or len(value) > 20:
                raise _BadHeader("a PAX size that is no number")
            override.size = int(value)
        override.sparse |= keyword.startswith(b"GNU.sparse")


def _name(head: bytes) -> bytes:
    end = head.find(b"\0", 0, 100)
    name = head[: end if end >= 0 else 100]
    if head[345] and head[257:263] == b"ustar\0":
        return head[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _size(head: bytes) -> int:
    """The size field: octal digits, or GNU's base-256 number."""
    text = head[124:136]
    if text[0] & 0x80:
        if text[0] != 0x80:
            raise _BadHeader("a negative or absurd size")
        return int.from_bytes(text[1:], "big")
    try:
        size = int(text.strip(b" \0") or b"0", 8)
    except ValueError:
        raise _BadHeader("a size that is no number") from None
    if size < 0:
        raise _BadHeader("a negative size")
    return size


def _first_invalid(headers: list[bytes]) -> int:
    """Index of the first header whose checksum is wrong, else how many there are."""
    if not headers:
        return 0
    table = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
    for index in np.flatnonzero(~_valid_rows(table)).tolist():
        if not _valid(headers[index]):
            return index
    return len(headers)


def _valid_rows(table: np.ndarray) -> np.ndarray:
    """Headers (n, 512) whose checksum field, six octal digits, fits; others may be valid too."""
    digits = table[:, 148:154].astype(np.int64) - ord("0")
    said = digits @ (8 ** np.arange(5, -1, -1))
    sums = table.sum(1, dtype=np.int64) - table[:, 148:156].sum(1, dtype=np.int64) + 8 * ord(" ")
    return ((digits >= 0) & (digits < 8)).all(1) & (said == sums)


def _valid(head: bytes) -> bool:
    """Whether the checksum fits, in any spelling; old tars summed signed bytes."""
    field = head[148:156].strip(b" \0")
    if not field or not field.isdigit() or b"8" in field or b"9" in field:
        return False
    block = np.frombuffer(head, np.uint8)
    rest = 8 * ord(" ") - int(block[148:156].sum())
    signed = int(block.view(np.int8).sum(dtype=np.int64)) - int(
        block[148:156].view(np.int8).sum(dtype=np.int64)
    )
    return int(field, 8) in (int(block.sum(dtype=np.int64)) + rest, signed + 8 * ord(" "))


def _search(reader: _Reader, position: int) -> int:
    """The next block that is a valid header, or -1."""
    while position + BLOCK <= reader.length:
        data = reader.bytes(position, _SEARCH)
        table = np.frombuffer(data[: len(data) // BLOCK * BLOCK], np.uint8).reshape(-1, BLOCK)
        if not len(table):
            break
        magic = (table[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(1)
        for index in np.flatnonzero(magic).tolist():
            if _valid(table[index].tobytes()):
                return position + index * BLOCK
        position += len(table) * BLOCK
    return -1


def padded(size: int) -> int:
    """Bytes that `size` bytes of data take in an archive."""
    return -(-size // BLOCK) * BLOCK


def padding(size: int) -> bytes:
    """Zeros that follow `size` bytes of data."""
    return _ZEROS[: padded(size) - size]


def header(name: str, size: int) -> bytes:
    """The header of a regular file: ustar, with a PAX record where the name does not fit.

    Owner, mode and time are fixed, so that equal content gives equal bytes.
    """
    raw = name.encode()
    if raw.isascii() and len(raw) <= 100:
        return _ustar(raw, size, b"0")
    record = b" path=" + raw + b"\n"
    length = len(record) + len(str(len(record)))
    length += len(str(length)) - len(str(len(record)))  # the length counts its own digits
    data = str(length).encode() + record
    short = raw.decode().encode("ascii", "replace")[:100]
    return (
        _ustar(b"PaxHeaders/path", len(data), b"x")
        + data
        + padding(len(data))
        + _ustar(short, size, b"0")
    )


def _ustar(name: bytes, size: int, kind: bytes) -> bytes:
    """Mode 0644, owner 0, time 0."""
    digits = b"%011o" % size
    # The checksum is a sum of bytes, the checksum's own field counted as spaces.
    total = _FIXED_SUM + sum(name) + sum(digits) + kind[0]
    name = name + bytes(100 - len(name))
    return b"".join((name, _OWNER, digits, _TIME, b"%06o\0 " % total, kind, _MAGIC))


_OWNER, _TIME = b"0000644\0" + 2 * b"0000000\0", b"\x00" + b"00000000000\0"
_MAGIC = (bytes(100) + b"ustar\x0000").ljust(BLOCK - 157, b"\0")
_FIXED_SUM = sum(_OWNER) + sum(_TIME) + sum(_MAGIC) + 8 * ord(" ")
