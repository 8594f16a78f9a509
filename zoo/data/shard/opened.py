"""One open shard: samples by their number, neighbours with one read."""

import errno
import os
import random
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.remote.cache import LocalCopy
from zoo.data.shard.index import CODES, ShardIndex
from zoo.errors import DataError

__all__ = ["Arenas", "Members", "OpenShard", "Read", "Where"]

Members = Mapping[str, memoryview]  # extension -> bytes; valid as long as somebody holds them
Numbers = NDArray[np.int64]
Read = tuple[int, Members | DataError]  # place in what was asked for, sample or what is wrong


class _Plan(NamedTuple):
    """How to read samples that are sorted by where they begin.

    `windows` are (bytes, runs); a run of close samples is (place in the window's memory, first
    byte in the file, bytes, first sample, sample after the last). `shifts` (n,) lead from the file
    to the memory.
    """

    windows: list[tuple[int, list[tuple[int, ...]]]]
    shifts: Numbers


def _plan(starts: Numbers, stops: Numbers) -> _Plan:
    volume = np.cumsum(stops - starts)
    cut = np.ones(len(starts), bool)
    cut[1:] = (starts[1:] > stops[:-1] + _GAP) | (np.diff(volume // _WINDOW) > 0)
    first = np.flatnonzero(cut)
    behind = np.append(first[1:], len(starts))
    begin = starts[first]
    size = np.maximum.reduceat(stops, first) - begin
    before = np.cumsum(size) - size
    window = before // _WINDOW
    opens = np.flatnonzero(np.diff(window, prepend=-1))
    closes = np.append(opens[1:], len(first))
    at = before - np.repeat(before[opens], closes - opens)
    runs = list(zip(*(c.tolist() for c in (at, begin, size, first, behind)), strict=True))
    windows = [
        (runs[close - 1][0] + runs[close - 1][2], runs[open_:close])
        for open_, close in zip(opens.tolist(), closes.tolist(), strict=True)
    ]
    return _Plan(windows, np.repeat(at - begin, behind - first))


class Where(NamedTuple):
    """A sample for people to find."""

    shard: str
    number: int  # in the shard
    key: str

    def __str__(self) -> str:
        return f"{self.shard}, sample {self.key!r}"


_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENETDOWN}
_RETRIES, _WAIT = 5, 0.05  # seconds before the second try; doubles
_FAR = 1 << 20  # bytes from the first to the last of a scattered sample that are read at once
_GAP = 16 << 10  # bytes between two samples that are read along rather than skipped
_WINDOW = 512 << 10  # bytes read before they are handed out: they should stay in the CPU's cache
_SAYS = {
    "TRUNCATED": "the shard ends early",
    "MISSING_PART": "parts are missing",
    "DUP_PART": "one of its parts is there twice",
    "DUP_KEY": "its key comes twice in the shard",
    "UNSAFE_NAME": "its name is absolute, leads upwards or holds control characters",
    "TOO_LARGE": "a member is larger than 1 GiB, or all are together larger than 4 GiB",
    "SPARSE_MEMBER": "a member is a sparse file",
}
_ENDS = CODES.index("TRUNCATED")


class Arenas:
    """Memory that is read into again and again, for as long as nobody holds what was there."""

    def __init__(self) -> None:
        # Two in turn: a loop's variable still holds the last sample of the one before.
        self._arrays = [bytearray(), bytearray()]

    def take(self, size: int) -> memoryview:
        """`size` writable bytes."""
        array = self._arrays.pop(0)
        try:
            # Python refuses to change the length of an array that anything still looks into.
            array.append(0)
            array.pop()
        except BufferError:
            array = bytearray()
        if len(array) < size:
            array = bytearray(size)
        self._arrays.append(array if size <= 4 * _WINDOW else bytearray())
        return memoryview(array)[:size]


class OpenShard:
    """A local shard and its index.

    Attributes:
        codes: (n,) number in CODES, with what `require` adds to the index.
    """

    def __init__(
        self,
        path: Path,
        index: ShardIndex,
        require: Sequence[str] = (),
        copy: LocalCopy | None = None,
    ) -> None:
        """Opens the file.

        Args:
            path: of the tar.
            index: of that file.
            require: extensions without which a sample counts as bad.
            copy: what keeps the file in the cache; closed with this.

        Raises:
            DataError: the file cannot be opened.
        """
        self.path, self.index, self._copy = path, index, copy
        self.codes = index.code
        if require:
            short = (index.code == 0) & ~index.has(require)
            self.codes = np.where(short, CODES.index("MISSING_PART"), index.code).astype(np.uint8)
        self._descriptor = self._open()

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{self.path}: cannot open it ({error.strerror})", code="IO") from None

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._copy is not None:
            self._copy.close()

    def key(self, number: int) -> str:
        """The key of a sample, or its number where the shard ends before it."""
        known = number < len(self.index)
        return (known and self.index.key(self._descriptor, number)) or f"#{number}"

    def read(
        self, numbers: Numbers, places: Numbers, arenas: Arenas, *, check: bool
    ) -> Iterator[Read]:
        """Samples by number, as they lie in the file.

        Args:
            numbers: (n,) of the samples, any order.
            places: (n,) what comes back with each.
            arenas: give the memory.
            check: compare with the checksums that the index may hold.

        Yields:
            (place, members), or an error in the place of a bad sample.

        Raises:
            DataError: the file cannot be read, with code IO; nothing is wrong with the samples.
        """
        inside = numbers < len(self.index)
        codes = np.full(len(numbers), _ENDS)
        codes[inside] = self.codes[numbers[inside]]
        for i in np.flatnonzero(codes).tolist():
            code = CODES[codes[i]]
            yield int(places[i]), DataError(_SAYS[code], code=code)
        good = np.flatnonzero(codes == 0)
        if not self.index.is_contiguous:
            starts, stops = self.index.spans(numbers[good])
            apart = stops - starts > _FAR
            for i in good[apart].tolist():
                yield int(places[i]), self._read_apart(int(numbers[i]), check=check)
            good = good[~apart]
        good = good[np.argsort(self.index.spans(numbers[good])[0], kind="stable")]
        if len(good):
            yield from self._read_close(numbers[good], places[good].tolist(), arenas, check=check)

    def _read_apart(self, number: int, *, check: bool) -> Members | DataError:
        """A sample whose members lie far from each other."""
        index = self.index
        rows = slice(int(index.rows[number]), int(index.rows[number + 1]))
        columns = (index.extension[rows], index.offset[rows], index.size[rows])
        members = {}
        for extension, offset, size in zip(*(c.tolist() for c in columns), strict=True):
            view = memoryview(bytearray(size))
            if self._pread(view, offset) < size:
                return DataError(_SAYS["TRUNCATED"], code="TRUNCATED")
            members[index.facts.extensions[extension]] = view
        return _compared(members, index.crc[rows].tolist() if check else [])

    def _read_close(
        self, numbers: Numbers, places: list[int], arenas: Arenas, *, check: bool
    ) -> Iterator[Read]:
        """Samples in the order of the file; every Python operation here counts."""
        index = self.index
        starts, stops = index.spans(numbers)
        first = index.rows[numbers].astype(np.int64)
        counts = index.rows[numbers + 1].astype(np.int64) - first
        untils = np.cumsum(counts)
        # The members of all samples in flat lists, sample after sample.
        rows = np.repeat(first - (untils - counts), counts) + np.arange(untils[-1])
        plan = _plan(starts, stops)
        begin = index.offset[rows].astype(np.int64) + np.repeat(plan.shifts, counts)
        begins, ends = begin.tolist(), (begin + index.size[rows].astype(np.int64)).tolist()
        extensions, names = index.extension[rows].tolist(), index.facts.extensions
        crcs = index.crc[rows].tolist() if check and len(index.crc) else None
        samples = list(zip(places, stops.tolist(), untils.tolist(), strict=True))
        at = 0
        for size, runs in plan.windows:
            memory = arenas.take(size)
            for base, start, length, one, behind in runs:
                filled = start + self._pread(memory[base : base + length], start)
                for place, stop, until in samples[one:behind]:
                    members = {
                        names[extensions[i]]: memory[begins[i] : ends[i]] for i in range(at, until)
                    }
                    if stop > filled:
                        yield place, DataError(_SAYS["TRUNCATED"], code="TRUNCATED")
                    elif crcs is not None:
                        yield place, _compared(members, crcs[at:until])
                    else:
                        yield place, members
                    at = until

    def _pread(self, view: memoryview, start: int) -> int:
        """Fills `view`; returns how many bytes there were."""
        filled = 0
        while filled < len(view):
            try:
                read = os.preadv(
                    self._descriptor, [view[filled:] if filled else view], start + filled
                )
            except OSError as error:
                read = self._again(error, view[filled:], start + filled)
            if read == 0:
                break
            filled += read
        return filled

    def _again(self, error: OSError, view: memoryview, start: int) -> int:
        """Reads after an error that may pass."""
        for attempt in range(_RETRIES):
            if error.errno not in _TRANSIENT:
                break
            time.sleep(_WAIT * 2**attempt * (1 + random.random()))
            os.close(self._descriptor)  # a stale handle stays stale
            self._descriptor = self._open()
            try:
                return os.preadv(self._descriptor, [view], start)
            except OSError as again:
                error = again
        raise DataError(f"{self.path}: cannot read it ({error.strerror})", code="IO") from None


def _compared(members: Members, crcs: list[int]) -> Members | DataError:
    """The members, unless they are not what was written."""
    if crcs and crcs != [*map(zlib.crc32, members.values())]:
        return DataError("its bytes are not those that were written", code="CHECKSUM")
    return members
