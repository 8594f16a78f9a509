"""What a worker does: places -> samples -> micro-batches, with substitutes for bad samples."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from traceback import format_exception
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.order import Purpose, key
from zoo.data.quarantine import Bad
from zoo.data.selecting.roles import SampleOrder
from zoo.data.shard.index import Event
from zoo.data.shard.opened import Read, Where
from zoo.errors import DataError, WorkerError, ZooError, unexpected

__all__ = ["ATTEMPTS", "Batch", "Fetch", "Fetched", "Place", "Samples", "places", "sample_seeds"]

Batch = dict[str, Tensor]
ATTEMPTS = 3  # substitutes that are tried for one position


class Samples(Protocol):
    """What a loader reads: shards, or a view of some."""

    @property
    def fingerprint(self) -> str:
        """Equal for the same samples in the same order."""

    def __len__(self) -> int: ...

    def read_many(self, ids: NDArray[np.int64]) -> Iterator[Read]:
        """(place in `ids`, members or what is wrong), in any order."""

    def where(self, index: int) -> Where:
        """Shard, number and key of a sample."""

    @property
    def events(self) -> Mapping[str, tuple[Event, ...]]:
        """What is to be known about shards, by name."""


class Place(NamedTuple):
    """One position of the order, and the sample that it stands for."""

    position: int
    epoch: int
    id: int
    seed: int  # of everything random about the sample


class Fetched(NamedTuple):
    """What comes back for a task."""

    batches: list[Batch]
    bad: list[Bad]
    error: ZooError | None = None


def sample_seeds(seed: int, epochs: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Seeds of all chance about samples: functions of the run's seed, the epoch and the sample."""
    with np.errstate(over="ignore"):
        words = key(seed, epochs.astype(np.uint64), Purpose.AUGMENT, ids.astype(np.uint64))
    return (words >> np.uint64(1)).astype(np.int64)  # torch wants signed numbers


def places(order: SampleOrder, seed: int, positions: NDArray[np.int64]) -> list[Place]:
    """The places of any positions."""
    epochs, ids = order.epochs(positions), order.ids(positions)
    columns = (positions, epochs, ids, sample_seeds(seed, epochs, ids))
    return [Place(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


@dataclass(frozen=True)
class Fetch:
    """Turns places into micro-batches; the same wherever and whenever it runs.

    Attributes:
        samples, decode, prepare, collate, order, seed: as in `Loader`.
        substitute: take another sample for a bad one, instead of giving up.
        budget: tokens of a micro-batch; None puts all places into one.
        length: tokens of a prepared sample.
    """

    samples: Samples
    decode: Callable[[Mapping[str, memoryview]], dict[str, object]]
    prepare: Callable[[dict[str, object], torch.Generator], Batch]
    collate: Callable[[Sequence[Batch]], Batch]
    order: SampleOrder
    seed: int
    substitute: bool
    budget: int | None = None
    length: Callable[[Batch], int] | None = None

    def __call__(self, wanted: Sequence[Place], in_hand: NDArray[np.int64]) -> Fetched:
        """Micro-batches of the samples at `wanted`.

        Args:
            wanted: places, in the order of the batch.
            in_hand: (2,) takes the process and the sample in work, for when this process dies.
        """
        ready: list[Batch | None] = [None] * len(wanted)
        bad: list[Bad] = []
        in_hand[0] = os.getpid()
        todo = list(enumerate(wanted))
        attempt = 0
        try:
            while todo:
                attempt += 1
                failed = self._prepare(todo, ready, in_hand)
                todo = []
                for slot, place, error in failed:
                    if error.code == "IO" or not self.substitute:
                        raise self._named(place, error)
                    if attempt > ATTEMPTS:
                        raise self._named(place, error, f"; so are {ATTEMPTS} substitutes")
                    jump = wanted[slot].position + self.order.samples * attempt + 1
                    [other] = places(self.order, self.seed, np.array([jump]))
                    bad.append(self._bad(place, error, wanted[slot].position, other))
                    todo.append((slot, other))
        except ZooError as error:
            # An exception that leaves a worker comes back with a page of traceback in its message.
            return Fetched([], bad, error)
        except Exception as error:
            failure = WorkerError(f"{self.samples.where(int(in_hand[1]))}: {unexpected(error)}")
            failure.add_note("".join(format_exception(error)))  # of which only text crosses over
            return Fetched([], bad, failure)
        return Fetched(self._collate([sample for sample in ready if sample is not None]), bad)

    def _prepare(
        self,
        todo: Sequence[tuple[int, Place]],
        ready: list[Batch | None],
        in_hand: NDArray[np.int64],
    ) -> list[tuple[int, Place, DataError]]:
        """Fills slots of `ready`; returns those whose sample is bad."""
        failed = []
        ids = np.array([place.id for _, place in todo])
        in_hand[1] = ids[0]
        for number, members in self.samples.read_many(ids):
            slot, place = todo[number]
            in_hand[1] = place.id
            if isinstance(members, DataError):
                failed.append((slot, place, members))
                continue
            try:
                generator = torch.Generator().manual_seed(place.seed)
                ready[slot] = self.prepare(self.decode(members), generator)
            except DataError as error:
                failed.append((slot, place, error))
        return sorted(failed, key=lambda row: row[0])

    def _collate(self, samples: list[Batch]) -> list[Batch]:
        """One batch, or as many as keep each within the budget of tokens."""
        if self.budget is None or self.length is None:
            return [self.collate(samples)]
        groups: list[list[Batch]] = []
        held = 0
        for sample in samples:
            tokens = self.length(sample)
            if not groups or held + tokens > self.budget:
                groups.append([])
                held = 0
            groups[-1].append(sample)
            held += tokens
        return [self.collate(group) for group in groups]

    def _bad(self, place: Place, error: DataError, position: int, other: Place) -> Bad:
        shard, number, sample = self.samples.where(place.id)
        return Bad(
            shard=shard,
            number=number,
            id=place.id,
            key=sample,
            code=error.code,
            detail=str(error),
            epoch=place.epoch,
            position=position,
            substituted_by=other.id,
        )

    def _named(self, place: Place, error: DataError, more: str = "") -> DataError:
        if error.code == "IO":
            return error  # names its file
        return DataError(f"{self.samples.where(place.id)}: {error}{more}", code=error.code)
