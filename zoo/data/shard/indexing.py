"""Tar -> index: groups members into samples and decides which of them may be read.

A sample is quarantined, never dropped: it keeps its number. Where a shard is damaged, the samples
at the break must hold the parts that most others hold, because a cut sample looks like a short one.
"""

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np

from zoo.data.shard.index import CODES, Event, ShardFacts, ShardIndex, split_name, text_of
from zoo.data.shard.tar import Break, Member, Scan, scan
from zoo.errors import DataError, StorageError
from zoo.files import cache_folder, write_atomic

__all__ = ["MAX_MEMBER", "SUFFIX", "build_index", "index_of", "open_index", "read_index"]

SUFFIX = ".zidx"
MAX_MEMBER, MAX_SAMPLE = 1 << 30, 4 << 30  # bytes
MAX_EXTENSIONS = 1 << 16
_NAMED = 100  # events of one code that are kept one by one
_REGULAR, _FOLDER, _SPARSE = b"0\x007", ord("5"), ord("S")
_UNSAFE = re.compile(rb"[\x00-\x1f\x7f\\]|(?:^|/)\.\.(?:/|$)|^/|^[A-Za-z]:")
# What an unsafe name holds at least, wherever it stands in many names that are joined by a star.
_SUSPECT = re.compile(rb"[\x00-\x1f\x7f\\:]|\.\.|\*/")


def open_index(path: Path, *, immutable: bool = False) -> ShardIndex:
    """The index of a local shard: the stored one if it fits the file, else a new one, then stored.

    Args:
        path: the shard.
        immutable: its content never changes under its name (a cache's blob): time says nothing.

    Raises:
        DataError: the shard cannot be opened.
    """
    facts = _stat(path)
    changed = 0 if immutable else facts.st_mtime_ns
    places = _places(path)
    for place in places:
        if (index := read_index(place, facts.st_size, changed)) is not None:
            return index
    index = build_index(path, changed=changed)
    for place in places:
        try:
            write_atomic(place, index.to_bytes())
            break
        except StorageError:  # a read-only folder; the next place is the user's cache
            continue
    return index


def build_index(path: Path, *, changed: int = 0, ignore_end: bool = False) -> ShardIndex:
    """Reads every header of a shard; with `ignore_end`, of all archives that it consists of.

    Raises:
        DataError: the shard cannot be opened.
    """
    length = _stat(path).st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = scan(descriptor, length, ignore_end=ignore_end)
        return index_of(found, length, changed=changed)
    finally:
        os.close(descriptor)


def _stat(path: Path) -> os.stat_result:
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such shard", code="IO")
        with path.open("rb"):
            return path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})", code="IO") from None


def _places(path: Path) -> list[Path]:
    """Where its index may be: beside it, else in the cache."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return [path.with_name(path.name + SUFFIX), cache_folder() / "indexes" / (name + SUFFIX)]


def read_index(place: Path, size: int, changed: int) -> ShardIndex | None:
    """The index stored at `place`, if it is one, and of a file of that size and time."""
    try:
        with place.open("rb") as file:
            # Thousands of shards may be open at once: only what is used of an index takes memory.
            index = ShardIndex.from_bytes(mmap(file.fileno(), 0, access=ACCESS_READ))
    except (OSError, ValueError):  # not there, or empty
        return None
    if index is None or (index.facts.bytes, index.facts.changed) != (size, changed):
        return None
    return index


@dataclass(slots=True)
class _Groups:
    """Members by sample, in the order of first sight."""

    members: dict[bytes, list[int]] = field(default_factory=dict)  # key -> numbers in the scan
    extensions: dict[bytes, int] = field(default_factory=dict)
    extension: dict[int, int] = field(default_factory=dict)  # member -> number of its extension
    unsafe: set[bytes] = field(default_factory=set)
    sparse: set[bytes] = field(default_factory=set)
    large: set[bytes] = field(default_factory=set)
    ignored: int = 0
    not_regular: int = 0


def index_of(found: Scan, length: int, *, changed: int = 0) -> ShardIndex:
    """The index of a scanned archive of `length` bytes."""
    groups = _group(found.members)
    codes = _codes(found, groups)
    keys = list(groups.members)
    order = [number for key in keys for number in groups.members[key]]
    counts = [len(groups.members[key]) for key in keys]
    members, numbers = found.members, {code: i for i, code in enumerate(CODES)}
    facts = ShardFacts(
        bytes=length,
        changed=changed,
        status=_status(found.breaks),
        extensions=tuple(map(text_of, groups.extensions)),
        events=tuple(_events(found, groups, codes)),
    )
    return ShardIndex(
        facts=facts,
        rows=np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32),
        extension=np.array([groups.extension[i] for i in order], np.uint16),
        offset=np.array([members[i].offset for i in order], np.uint64),
        size=np.array([members[i].size for i in order], np.uint64),
        named=np.array([members[groups.members[key][0]].start for key in keys], np.uint64),
        code=np.array([numbers[codes.get(key, "")] for key in keys], np.uint8),
    )


def _group(members: list[Member]) -> _Groups:
    groups = _Groups()
    samples, extensions, extension_of = groups.members, groups.extensions, groups.extension
    # Nearly always all names are fine, and one look says so.
    suspect = _SUSPECT.search(b"*" + b"*".join(member.name for member in members))
    for number, (name, kind, _, _, size) in enumerate(members):
        if kind not in _REGULAR and kind != _SPARSE:
            groups.ignored += kind == _FOLDER
            groups.not_regular += kind != _FOLDER
            continue
        key, extension = split_name(name)
        if not key:
            groups.ignored += 1
            continue
        which = extensions.setdefault(extension, len(extensions))
        if which >= MAX_EXTENSIONS:  # nobody means that
            del extensions[extension]
            which = 0
            groups.large.add(key)
        extension_of[number] = which
        samples.setdefault(key, []).append(number)
        if suspect and _UNSAFE.search(name):
            groups.unsafe.add(key)
        elif kind == _SPARSE:
            groups.sparse.add(key)
        elif size > MAX_MEMBER:
            groups.large.add(key)
    return groups


def _codes(found: Scan, groups: _Groups) -> dict[bytes, str]:
    """What is wrong with each sample that has anything wrong."""
    codes = dict.fromkeys(groups.large, "TOO_LARGE") | dict.fromkeys(groups.sparse, "SPARSE_MEMBER")
    for key, numbers in groups.members.items():
        if len({groups.extension[i] for i in numbers}) < len(numbers):
            codes[key] = _duplicate([found.members[i].name for i in numbers], numbers)
    if sum(member.size for member in found.members) > MAX_SAMPLE:
        for key, numbers in groups.members.items():
            if sum(found.members[i].size for i in numbers) > MAX_SAMPLE:
                codes[key] = "TOO_LARGE"
    codes |= dict.fromkeys(groups.unsafe, "UNSAFE_NAME")
    for cut in found.breaks:
        if cut.name is not None and (key := split_name(cut.name)[0]):
            codes[key] = "TRUNCATED"
    for key in _suspects(found, groups):
        codes.setdefault(key, "MISSING_PART")
    return codes


def _duplicate(names: list[bytes], numbers: list[int]) -> str:
    """The whole sample again (DUP_KEY), or one of its parts."""
    times = set(Counter(names).values())
    apart = numbers[-1] - numbers[0] >= len(numbers)
    return "DUP_KEY" if apart or (len(times) == 1 and min(times) > 1) else "DUP_PART"


def _suspects(found: Scan, groups: _Groups) -> list[bytes]:
    """Samples at a break, and all behind one, that lack parts which most samples hold."""
    breaks = [b for b in found.breaks if b.code in ("TRUNCATED", "NO_EOF", "BAD_HEADER")]
    if not breaks:
        return []
    before: list[bytes] = []  # samples that end before the first break, the last one aside
    suspects: list[bytes] = []
    for key, numbers in groups.members.items():
        whole = numbers[-1] < breaks[0].members
        (before if whole else suspects).append(key)
    if before:
        suspects.append(before.pop())
    kinds = Counter(frozenset(groups.extension[i] for i in groups.members[key]) for key in before)
    if not kinds:
        return suspects
    usual = max(kinds, key=lambda kind: (kinds[kind], len(kind)))
    return [
        key for key in suspects if not usual <= {groups.extension[i] for i in groups.members[key]}
    ]


def _status(breaks: list[Break]) -> str:
    codes = {b.code for b in breaks}
    if "NOT_TAR" in codes:
        return "rejected"
    if "COMPRESSED" in codes:
        return "compressed"
    return "damaged" if codes else "ok"


def _events(found: Scan, groups: _Groups, codes: dict[bytes, str]) -> list[Event]:
    """Everything to know, by name as long as the list is short."""
    events = []
    for cut in found.breaks:
        key = split_name(cut.name)[0] if cut.name is not None else b""
        events.append(Event(cut.code, text_of(key) if key else None, detail=cut.detail))
    counts = Counter(codes.values())
    for key, code in codes.items():
        if code not in ("TRUNCATED", "UNSAFE_NAME") and counts[code] <= _NAMED:
            events.append(Event(code, text_of(key)))
    odd = (key for key in groups.members if not key.isascii() and not _is_utf8(key))
    events += [Event("NAME_ENCODING", text_of(key)) for key in odd]
    many = {code: n for code, n in counts.items() if code == "UNSAFE_NAME" or n > _NAMED}
    many |= {"IGNORED_MEMBER": groups.ignored, "NOT_REGULAR": groups.not_regular}
    many["NONCONTIGUOUS"] = sum(
        numbers[-1] - numbers[0] >= len(numbers)
        for key, numbers in groups.members.items()
        if codes.get(key) != "DUP_KEY"
    )
    events += [Event(code, count=count) for code, count in many.items() if count]
    if not groups.members and not found.breaks:
        events.append(Event("EMPTY_SHARD"))
    return events


def _is_utf8(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
