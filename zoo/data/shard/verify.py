"""Looks at every byte of a shard and says what is wrong with it; `repaired` writes a clean copy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.data.listing import ShardName
from zoo.data.shard.index import CODES, Event
from zoo.data.shard.indexing import build_index
from zoo.data.shard.local import local_shard, version_of
from zoo.data.shard.opened import Arenas, Members, OpenShard
from zoo.data.shard.write import ShardRow, write_shard
from zoo.errors import DataError
from zoo.files import sha256_of

__all__ = ["ShardReport", "repaired", "verify_shard"]

_READ = 256  # samples that are read together
Check = Callable[[Members], object]  # raises DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What there is to know about one shard."""

    name: str
    status: str  # ok, damaged, compressed or rejected
    samples: int  # that can be read
    bad: int
    bytes: int
    extensions: tuple[str, ...]
    events: tuple[Event, ...]
    wrong: bool  # whether anything is wrong, and not just remarkable


def verify_shard(
    name: ShardName,
    *,
    require: Sequence[str] = (),
    decode: Check | None = None,
    read: bool = True,
) -> ShardReport:
    """What an index, checksums and decoding say.

    Args:
        name: of the shard; its digest is compared where the manifest gives one.
        require: extensions without which a sample is bad.
        decode: decodes the members of a sample; raises DataError.
        read: look at the bytes of members too, not just at headers.
    """
    local = local_shard(name, version_of(name))
    index = local.index
    shard = local.open(require)
    try:
        events = list(index.facts.events)
        short = np.flatnonzero((shard.codes == CODES.index("MISSING_PART")) & (index.code == 0))
        events += [Event("MISSING_PART", shard.key(number)) for number in short.tolist()]
        if read:
            events += _read(shard, decode)
            if name.sha256 and sha256_of(local.path) != name.sha256:
                events.append(Event("CHECKSUM", detail="its sha256 is not the manifest's"))
        if name.samples not in (None, len(index)):
            said = f"the manifest says {name.samples} samples, there are {len(index)}"
            events.append(Event("CHECKSUM", detail=said))
    finally:
        shard.close()
    good = int((shard.codes == 0).sum())
    return ShardReport(
        name=name.shown,
        status=index.facts.status,
        samples=good,
        bad=len(index) - good,
        bytes=index.facts.bytes,
        extensions=index.facts.extensions,
        events=tuple(events),
        wrong=bool(index.damaged) or len(events) > len(index.facts.events),
    )


def _read(shard: OpenShard, decode: Check | None) -> Iterator[Event]:
    """Events of samples whose headers are fine."""
    arenas = Arenas()
    good = np.flatnonzero(shard.codes == 0)
    for start in range(0, len(good), _READ):
        numbers = good[start : start + _READ]
        for number, members in shard.read(numbers, numbers, arenas, check=True):
            try:
                if isinstance(members, DataError):
                    raise members
                if decode is not None:
                    decode(members)
            except DataError as error:
                yield Event(error.code, shard.key(number), detail=str(error))


def repaired(
    name: ShardName, out: Path, *, require: Sequence[str] = (), decode: Check | None = None
) -> tuple[ShardRow, list[str]]:
    """Writes the good samples of a shard as a plain tar; the keys of the others come back.

    Raises:
        DataError: nothing of it can be read.
    """
    local = local_shard(name, version_of(name))
    if local.index.facts.status == "rejected":
        local.close()
        raise DataError(f"{name.shown}: not a tar; there is nothing to repair", code="NOT_TAR")
    # What was concatenated is one shard from now on.
    index = build_index(local.path, ignore_end=True)
    shard, dropped = OpenShard(local.path, index, require, local.copy), list[str]()

    def samples() -> Iterator[tuple[str, Mapping[str, bytes]]]:
        arenas = Arenas()
        for number in range(len(shard.index)):
            numbers = np.array([number])
            [(_, members)] = shard.read(numbers, numbers, arenas, check=True)
            try:
                if isinstance(members, DataError):
                    raise members
                if decode is not None:
                    decode(members)
            except DataError as error:
                dropped.append(f"{shard.key(number)}: {error.code}")
                continue
            yield shard.key(number), {e: bytes(data) for e, data in members.items()}

    try:
        return write_shard(out, samples()), dropped
    finally:
        shard.close()
