"""What shards are built from: a numbered list of samples.

Listing asks every file for its size and opens none. The part of the list that one shard needs can
be pickled: whoever writes the shard reads the files.
"""

import hashlib
import os
import stat
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.data.shard.indexing import MAX_MEMBER
from zoo.data.shard.tar import BLOCK, padded
from zoo.errors import DataError, UsageError

__all__ = [
    "BadSamples",
    "Item",
    "Listing",
    "Places",
    "Source",
    "Stored",
    "clean_extension",
    "clean_key",
    "extension_of",
]


@dataclass(frozen=True, slots=True)
class Item:
    """One sample to be: its key, and by extension the bytes or the file that holds them."""

    where: str  # named in messages
    key: str
    members: tuple[tuple[str, bytes | Path], ...]
    store: Callable[[Mapping[str, bytes]], dict[str, bytes]] | None = None

    def read(self) -> dict[str, bytes]:
        """Every member's bytes by extension, as `store` wants them in a shard.

        Raises:
            DataError: a file is not there, is no file, is too large, or cannot be decoded.
        """
        members = {
            extension: _read_file(content) if isinstance(content, Path) else content
            for extension, content in self.members
        }
        return self.store(members) if self.store else members


class Places(Protocol):
    """Where samples are; can be pickled."""

    def __iter__(self) -> Iterator[Item]:
        """The samples."""
        ...

    def part(self, ids: NDArray[np.int64]) -> "Places":
        """Some of them, in this order."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """Places whose samples change on their way into a shard."""

    places: Places
    store: Callable[[Mapping[str, bytes]], dict[str, bytes]]

    def __iter__(self) -> Iterator[Item]:
        return (replace(item, store=self.store) for item in self.places)

    def part(self, ids: NDArray[np.int64]) -> "Stored":
        """Some of them, in this order."""
        return replace(self, places=self.places.part(ids))


@dataclass(slots=True)
class BadSamples:
    """Samples that cannot be used: the first one ends the work, or all of them are listed."""

    skip: bool
    rows: list[dict[str, str]] = field(default_factory=list)  # where, code, reason

    @contextmanager
    def expected(self, where: str) -> Iterator[None]:
        """What is wrong inside belongs to the sample at `where`."""
        try:
            yield
        except DataError as error:
            if not self.skip:
                hint = "repair it, or leave such samples out with --skip-bad"
                raise DataError(f"{where}: {error}; {hint}", code=error.code) from None
            self.rows.append({"where": where, "code": error.code, "reason": str(error)})


@dataclass(frozen=True, kw_only=True)
class Source:
    """Samples by number.

    Attributes:
        places: where they are.
        sizes: (n,) bytes that each takes in a tar.
        bad: samples that listing left out, and whether writing may leave out more.
        facts: for the manifest; `sha256` is of keys, extensions, sizes, and of a table's cells.
        stamp: of the files' paths and times, to see that nothing changed in between.
        classes: what the numbers in `cls` mean, where the source says it.
    """

    places: Places
    sizes: NDArray[np.int64]
    bad: BadSamples
    facts: Mapping[str, object]
    stamp: str
    classes: Sequence[str] = ()


class Listing:
    """Collects what is to know about every sample."""

    def __init__(self, skip: bool) -> None:
        self.bad = BadSamples(skip)
        self._kept, self._sizes = array("q"), array("q")
        self._digest, self._stamp = hashlib.sha256(), hashlib.sha256()

    def add(self, number: int, item: Item) -> None:
        """Takes in a sample.

        Raises:
            DataError: it cannot be used.
        """
        size, content, times = 0, [item.key.encode()], list[str]()
        extensions = {extension for extension, _ in item.members}
        if len(extensions) < len(item.members):
            raise DataError("two of its files have one extension", code="DUP_PART")
        for extension, data in item.members:
            if isinstance(data, Path):
                facts = _stat_file(data)
                length = facts.st_size
                times.append(f"{data}\0{facts.st_mtime_ns}\0")
            else:
                length = _bounded(len(data), extension)
                content.append(data)
            content.append(f"\0{extension}\0{length}\0".encode())
            size += BLOCK + padded(length)
        self._digest.update(b"".join(content))
        self._stamp.update("".join(times).encode("utf-8", "surrogateescape"))
        self._kept.append(number)
        self._sizes.append(size)

    def source(self, places: Places, path: Path, **facts: object) -> Source:
        """The samples that can be used, out of all of `path`; `facts` say more about it.

        Raises:
            UsageError: there are none.
        """
        if not self._kept:
            said = ""
            if bad := self.bad.rows:
                first = f"the first is {bad[0]['where']}: {bad[0]['reason']}"
                said = f" ({len(bad)} cannot be used, {first})"
            raise UsageError(f"{path}: there are no samples in it{said}")
        digest = self._digest.hexdigest()
        return Source(
            places=places.part(np.array(self._kept, np.int64)),
            sizes=np.array(self._sizes, np.int64),
            bad=self.bad,
            stamp=self._stamp.hexdigest(),
            facts={**facts, "samples": len(self._kept), "sha256": digest},
        )


def _stat_file(path: Path) -> os.stat_result:
    """Size and time of a file.

    Raises:
        DataError: it is not there, is no file, or is too large.
    """
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path.name!r} ({reason})", code="IO") from None
    if not stat.S_ISREG(facts.st_mode):
        raise DataError(f"{path.name!r} is no file", code="NOT_REGULAR")
    _bounded(facts.st_size, path.name)
    return facts


def _read_file(path: Path) -> bytes:
    _stat_file(path)  # opening a pipe would wait for ever
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MEMBER + 1)
    except OSError as error:
        raise DataError(f"cannot read {path.name!r} ({error.strerror})", code="IO") from None
    _bounded(len(data), path.name)
    return data


def _bounded(size: int, name: str) -> int:
    if size > MAX_MEMBER:
        raise DataError(f"{name!r} is larger than 1 GiB", code="TOO_LARGE")
    return size


def clean_key(text: str) -> str:
    """A key that every reader gives back: no dots in its last part, nothing that leads out."""
    *folders, base = [part for part in text.split("/") if part.strip(". ")] or [""]
    name = "/".join([*folders, base.replace(".", "_")])
    fine = "".join(c if c.isprintable() and c not in "\\:" else "_" for c in name)
    return fine.lstrip("_-/") or "sample"


def extension_of(name: str) -> str:
    """What follows the first dot, as a tar may hold it; empty where there is nothing."""
    return clean_extension(name.partition(".")[2])


def clean_extension(text: str) -> str:
    """An extension that every reader gives back."""
    fine = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in text)
    return fine.lower().lstrip(".")
