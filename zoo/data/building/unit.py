"""The unit of work: one shard, whole, from a description that can be pickled."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from zoo.data.building.claim import NOTE
from zoo.data.building.sources import BadSamples, Places
from zoo.data.shard.write import ShardRow, read_row, write_shard
from zoo.errors import DataError
from zoo.files import write_atomic

__all__ = ["Built", "Measure", "ShardSpec", "Spread", "build_shard"]

Measure = Callable[[Mapping[str, bytes]], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Spread:
    """What is kept of many numbers."""

    count: int
    min: float
    max: float
    sum: float

    @classmethod
    def of(cls, spreads: Iterable["Spread"]) -> "Spread":
        """Several as one."""
        every = list(spreads)
        return cls(
            sum(one.count for one in every),
            min(one.min for one in every),
            max(one.max for one in every),
            math.fsum(one.sum for one in every),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpec:
    """All that the bytes of one shard depend on."""

    path: Path
    places: Places
    skip_bad: bool
    measure: Measure | None

    @property
    def name(self) -> str:
        """The shard's file name."""
        return self.path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One shard that was written.

    Attributes:
        name: of the shard.
        row: for the manifest; None where every sample was bad, and there is no shard.
        skipped: bad samples: where, code, reason.
        measured: of each number that `measure` gave.
    """

    name: str
    row: ShardRow | None
    skipped: list[dict[str, str]] = field(default_factory=list)
    measured: dict[str, Spread] = field(default_factory=dict)


def build_shard(spec: ShardSpec) -> Built:
    """Writes one shard, or finds it written: doing the same work again is harmless.

    Raises:
        DataError: a sample cannot be used; names it.
        StorageError: the disk is full or read-only.
    """
    note = spec.path.with_suffix(NOTE)
    row = read_row(spec.path)
    if row is None:
        samples = _samples(spec, note)
        first = next(samples, None)
        row = None if first is None else write_shard(spec.path, chain([first], samples))
    if not note.exists():
        return Built(name=spec.name, row=row)
    said, bad = json.loads(note.read_text()), BadSamples(spec.skip_bad)
    for one in said["skipped"]:  # by an earlier command, which may have been more patient
        with bad.expected(one["where"]):
            raise DataError(one["reason"], code=one["code"])
    measured = {name: Spread(**numbers) for name, numbers in said["measured"].items()}
    return Built(name=spec.name, row=row, skipped=bad.rows, measured=measured)


def _samples(spec: ShardSpec, note: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The good samples, with keys that differ; then the note about the others."""
    bad, keys, measured = BadSamples(spec.skip_bad), set[str](), dict[str, Spread]()
    for item in spec.places:
        good = None
        with bad.expected(item.where):
            members = item.read()
            _measure(spec.measure, members, measured)
            good = members
        if good is not None:
            yield _unlike(item.key, keys), good
    # Before the shard gets its name: a shard that is there has its note.
    if bad.rows or measured:
        spreads = {name: asdict(spread) for name, spread in measured.items()}
        write_atomic(note, json.dumps({"skipped": bad.rows, "measured": spreads}))
    else:
        note.unlink(missing_ok=True)


def _measure(
    measure: Measure | None, members: Mapping[str, bytes], measured: dict[str, Spread]
) -> None:
    """Adds the numbers of one sample, all or none."""
    numbers = measure(members) if measure else {}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise DataError(f"its {name} is {number}", code="NONFINITE")
    for name, number in numbers.items():
        one = Spread(1, number, number, number)
        measured[name] = Spread.of([measured[name], one]) if name in measured else one


def _unlike(key: str, keys: set[str]) -> str:
    """The key, with a number where the shard has it already."""
    unlike, number = key, 0
    while unlike in keys:
        number += 1
        unlike = f"{key}-{number}"
    keys.add(unlike)
    return unlike
