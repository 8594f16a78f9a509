"""The index of a shard: where every member of every sample lies, and what is wrong with the shard.

Built in one pass over the tar's headers, kept beside the shard as `X.tar.zidx`, rebuilt when the
shard's size or time of change differ. Keys stay in the tar. A sample keeps its number whatever
happens to its neighbours: a bad one has a code and is never read.
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from mmap import mmap

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from zoo.data.shard.tar import name_at

__all__ = ["CODES", "Event", "ShardFacts", "ShardIndex", "split_name", "text_of"]

FORMAT = "zoo-index/1"
_DIGITS = 8  # of the digest
Numbers = NDArray[np.int64]
# What may be wrong with a sample; 0 is nothing. The numbers are part of the format.
CODES = (
    *("", "TRUNCATED", "MISSING_PART", "DUP_PART", "DUP_KEY", "UNSAFE_NAME", "TOO_LARGE"),
    "SPARSE_MEMBER",
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something to know about a shard: a code of specification `data`, 6.2."""

    code: str
    sample: str | None = None
    count: int = 1
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFacts:
    """What an index says about the file that it was made of."""

    bytes: int
    changed: int  # st_mtime_ns, or 0 for shards that are named by their content
    status: str  # ok, damaged, compressed or rejected
    extensions: tuple[str, ...]
    events: tuple[Event, ...] = ()
    sha256: str | None = None  # of the shard, where zoo wrote it


@dataclass(frozen=True)
class ShardIndex:
    """n samples with m members; the members of sample i are rows[i] to rows[i+1].

    Attributes:
        facts: about the shard.
        rows: (n+1,) first member of each sample.
        extension: (m,) number in `facts.extensions`.
        offset: (m,) of the data in the tar, bytes.
        size: (m,) bytes.
        named: (n,) where the header that holds the sample's name begins.
        code: (n,) number in CODES; samples with another code than 0 are never read.
        crc: (m,) CRC-32 of each member, or empty where they are not known.
    """

    facts: ShardFacts
    rows: NDArray[np.uint32]
    extension: NDArray[np.uint16]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint64]
    named: NDArray[np.uint64]
    code: NDArray[np.uint8]
    crc: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))

    def __len__(self) -> int:
        return len(self.code)

    def spans(self, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """First byte, and the byte after the last, of samples (n,); members lie in order."""
        last = self.rows[numbers + 1].astype(np.int64) - 1
        stops = self.offset[last] + self.size[last]
        return self.offset[self.rows[numbers]].astype(np.int64), stops.astype(np.int64)

    @property
    def is_contiguous(self) -> bool:
        """Whether each sample's members follow each other."""
        return all(event.code != "NONCONTIGUOUS" for event in self.facts.events)

    @property
    def damaged(self) -> list[Event]:
        """Events that are damage, and not just remarks."""
        remarks = ("IGNORED_MEMBER", "NONCONTIGUOUS", "NAME_ENCODING", "EMPTY_SHARD", "COMPRESSED")
        return [event for event in self.facts.events if event.code not in remarks]

    def has(self, extensions: Iterable[str]) -> NDArray[np.bool_]:
        """(n,) which samples hold all of these parts."""
        whole = np.ones(len(self), bool)
        members = self.rows[1:].astype(np.int64) - self.rows[:-1]
        sample = np.repeat(np.arange(len(self)), members)
        for name in extensions:
            there = np.zeros(len(self), bool)
            if name in self.facts.extensions:
                number = self.facts.extensions.index(name)
                there[sample[self.extension == number]] = True
            whole &= there
        return whole

    def key(self, descriptor: int, sample: int) -> str:
        """The sample's key, read from the tar."""
        name = name_at(descriptor, int(self.named[sample]))
        return text_of(split_name(name)[0])

    def to_bytes(self) -> bytes:
        """The index as a file: safetensors, with a digest of everything in its header."""
        facts = self.facts
        table = {
            "format": FORMAT,
            "bytes": facts.bytes,
            "changed": facts.changed,
            "status": facts.status,
            "extensions": facts.extensions,
            "events": [astuple(event) for event in facts.events],
            "sha256": facts.sha256,
        }
        text = json.dumps(table)
        arrays = self._arrays()
        # One entry: safetensors keeps no order of several, and equal indexes shall be equal bytes.
        return save(arrays, metadata={"facts": _digest(text, arrays) + text})

    def _arrays(self) -> dict[str, np.ndarray]:
        names = ("rows", "extension", "offset", "size", "named", "code", "crc")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_bytes(cls, data: bytes | mmap) -> "ShardIndex | None":
        """What `to_bytes` gave, or None where it is anything else: an index can be made again.

        The arrays are views of `data`: of an index that is mapped only what is used takes memory.
        """
        try:
            begin = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(data[8:begin])
            notes = header.pop("__metadata__")["facts"]
            arrays = {
                name: _array(data, begin, row["dtype"], *row["data_offsets"])
                for name, row in header.items()
            }
            digest, text = notes[:_DIGITS], notes[_DIGITS:]
            table = json.loads(text)
            if digest != _digest(text, arrays) or table["format"] != FORMAT:
                return None
            facts = ShardFacts(
                bytes=table["bytes"],
                changed=table["changed"],
                status=table["status"],
                extensions=tuple(table["extensions"]),
                events=tuple(Event(*event) for event in table["events"]),
                sha256=table["sha256"],
            )
            index = cls(facts=facts, **arrays)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return index if index._is_sound() else None

    def _is_sound(self) -> bool:
        """Whether no number leads out of the arrays or the file: the index may be a stranger's."""
        n, m = len(self.code), len(self.offset)
        rows = self.rows.astype(np.int64)
        shapes = len(rows) == n + 1 and len(self.named) == n and len(self.crc) in (0, m)
        if not shapes or not len(self.size) == len(self.extension) == m or rows[-1] != m:
            return False
        length = np.uint64(self.facts.bytes)
        inside = (self.offset <= length) & (self.size <= length - np.minimum(self.offset, length))
        good = (self.code[np.repeat(np.arange(n), np.diff(rows))] == 0) if m else np.zeros(0, bool)
        ascends = self.offset[1:] >= self.offset[:-1] + self.size[:-1]
        ascends[rows[1:-1] - 1] = True  # from sample to sample it need not
        return bool(
            ascends.all()
            and (np.diff(rows) > 0).all()
            and rows[0] == 0
            and (inside | ~good).all()
            and (self.extension < len(self.facts.extensions)).all()
            and (self.code < len(CODES)).all()
        )


def _array(data: bytes | mmap, base: int, dtype: str, begin: int, end: int) -> np.ndarray:
    kind = np.dtype({"U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"}[dtype])
    if not 0 <= begin <= end <= len(data) - base:
        raise ValueError("leads out of the file")
    return np.frombuffer(data, kind, (end - begin) // kind.itemsize, offset=base + begin)


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    """Against rot only: whoever can write an index can make its digest fit."""
    digest = zlib.crc32(text.encode())
    for name in sorted(arrays):
        digest = zlib.crc32(name.encode(), digest)
        digest = zlib.crc32(np.ascontiguousarray(arrays[name]).data, digest)
    return f"{digest:08x}"


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """Key and extension of a member: they part at the first dot of the basename.

    The key is empty for members that belong to no sample: no dot, hidden, or `__meta__`.
    """
    slash = name.rfind(b"/")
    dot = name.find(b".", slash + 1)
    if dot <= slash + 1 or (name.startswith(b"__") and name.split(b"/", 1)[0].endswith(b"__")):
        return b"", b""
    return name[:dot], name[dot + 1 :].lower()


def text_of(name: bytes) -> str:
    """A name as text; bytes that are not UTF-8 are spelled out."""
    text = name.decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace").decode()
