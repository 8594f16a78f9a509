"""Shards -> batches, in an order that neither workers nor interruptions change.

The sequence of global batches is a function of the shards, the seed and the position; the position
is one integer and says all that resuming needs. A step takes `batch_size` positions; each rank
takes its part of them, in one or several micro-batches. Positions run on over epochs: nothing is
dropped, and no batch of training is short.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.fetch import ATTEMPTS, Batch, Fetch, Place, Samples, places, sample_seeds
from zoo.data.mixture import Mixture
from zoo.data.order import Order
from zoo.data.quarantine import Bad, Quarantine
from zoo.data.selecting.roles import SampleOrder
from zoo.data.workers import run_tasks
from zoo.errors import UsageError
from zoo.registry.recipe import LoaderRecipe

__all__ = ["Batch", "Loader", "Samples", "sample_seeds"]

VERSION = 1  # of the state
_TOGETHER = 4096  # positions that are put in order at a time


@dataclass(frozen=True)
class Loader:
    """Endless steps; `iterate(position)` starts anywhere at once.

    Attributes:
        shards: where the samples are.
        decode: members of a sample -> sample (the modality's codec).
        prepare: sample and its own generator -> tensors (augmentation, then the objective's views).
        collate: tensors of several samples -> a batch.
        batch_size: samples of a step, over all ranks.
        recipe: workers, shuffling, bad samples.
        seed: of the order and of everything random about a sample.
        accumulate: micro-batches of a step on each rank, where no budget of tokens decides.
        rank: this process's number of `world`, which share each step.
        world: see `rank`.
        given_order: of the samples (a mixture); by default the recipe's block, pool and lanes.
        length: tokens of a prepared sample, for `recipe.tokens`.
        quarantine: where bad samples are listed; in memory by default.
    """

    shards: Samples
    decode: Callable[[Mapping[str, memoryview]], dict[str, object]]
    prepare: Callable[[dict[str, object], torch.Generator], Batch]
    collate: Callable[[Sequence[Batch]], Batch]
    batch_size: int
    recipe: LoaderRecipe
    seed: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1
    given_order: SampleOrder | None = None
    length: Callable[[Batch], int] | None = None
    quarantine: Quarantine = field(default_factory=lambda: Quarantine(None, most=0.001))

    def __post_init__(self) -> None:
        least = self.world * (1 if self.recipe.tokens else self.accumulate)
        if self.batch_size < least or (self.recipe.lanes % self.world and self.recipe.lanes > 1):
            raise UsageError(
                f"batches of {self.batch_size} in {self.recipe.lanes} lanes cannot be shared by "
                f"{self.world} processes and {self.accumulate} micro-batches each: take a larger "
                "batch, or as many lanes as a multiple of the processes"
            )

    @cached_property
    def order(self) -> SampleOrder:
        """Which sample stands at which position."""
        recipe = self.recipe
        return self.given_order or Order(
            samples=len(self.shards),
            seed=self.seed,
            block=recipe.block,
            pool=recipe.pool,
            lanes=recipe.lanes,
        )

    def iterate(self, position: int) -> Generator[list[Batch]]:
        """This rank's micro-batches, step after step, from a position counted over all epochs.

        Raises:
            DataError: a shard cannot be read, or too many samples are bad; names shard and key.
            WorkerError: a worker died or hangs; names shard and key.
        """
        recipe = self.recipe
        fetch = self._fetch(substitute=recipe.on_bad == "substitute", budget=recipe.tokens)
        parts = 1 if recipe.tokens is not None else self.accumulate
        results = run_tasks(fetch, lambda: self._tasks(position, parts), recipe)
        read = position // self.world
        step: list[Batch] = []
        bad: list[Bad] = []
        try:
            for number, result in enumerate(results, 1):
                bad += result.bad
                if result.error is not None:
                    self.quarantine.add(bad, read)  # too many bad ones is the better reason
                    raise result.error
                step += result.batches
                if number % parts == 0:
                    read += self.batch_size // self.world
                    self.quarantine.add(bad, read)
                    yield step
                    step, bad = [], []
        finally:
            results.close()  # ends the workers now, not some day

    def sweep(self) -> Generator[tuple[Batch, int]]:
        """One pass in the order of the shards, for evaluation: (batch, how many of it count).

        The last batch is short. Every rank gets as many batches as the others; where there are not
        enough samples the last one is repeated, and those copies do not count.

        Raises:
            DataError: a sample is bad: nothing is substituted in an evaluation.
            WorkerError: a worker died or hangs; names shard and key.
        """
        ids = np.arange(len(self.shards))
        parts, counts = [], []
        for start in range(0, len(ids), self.batch_size):
            batch = ids[start : start + self.batch_size]
            share = -(-len(batch) // self.world)
            mine = batch[self.rank * share : (self.rank + 1) * share]
            counts.append(len(mine))
            parts.append(np.append(mine, np.full(share - len(mine), batch[-1])))
        epochs = np.zeros(1, np.int64)

        def tasks() -> Iterator[list[Place]]:
            for part in parts:
                seeds = sample_seeds(self.seed, epochs, part).tolist()
                rows = zip(part.tolist(), seeds, strict=True)
                yield [Place(index, 0, index, seed) for index, seed in rows]

        results = run_tasks(self._fetch(substitute=False, budget=None), tasks, self.recipe)
        try:
            for result, count in zip(results, counts, strict=True):
                if result.error is not None:
                    raise result.error
                yield result.batches[0], count
        finally:
            results.close()

    def _fetch(self, *, substitute: bool, budget: int | None) -> Fetch:
        return Fetch(
            samples=self.shards,
            decode=self.decode,
            prepare=self.prepare,
            collate=self.collate,
            order=self.order,
            seed=self.seed,
            substitute=substitute,
            budget=budget,
            length=self.length,
        )

    def _tasks(self, position: int, parts: int) -> Iterator[list[Place]]:
        """Places of one micro-batch after the other, without end."""
        slots = self._slots()
        # The order costs as much for one step as for many.
        steps = max(1, _TOGETHER // self.batch_size)
        ends = np.array([len(part) for part in np.array_split(slots, parts)]).cumsum()
        while True:
            begins = position + np.arange(steps) * self.batch_size
            rows = places(self.order, self.seed, (begins[:, None] + slots).ravel())
            for step in range(0, len(rows), len(slots)):
                whole = self._without_bad(rows[step : step + len(slots)])
                begin = 0
                for end in ends.tolist():
                    yield whole[begin:end]
                    begin = end
            position += steps * self.batch_size

    def _slots(self) -> NDArray[np.int64]:
        """Which positions of a step are this rank's: whole lanes, or one contiguous part."""
        slots, lanes = np.arange(self.batch_size), self.recipe.lanes
        if lanes == 1:
            return slots[slots * self.world // self.batch_size == self.rank]
        return slots[slots % lanes * self.world // lanes == self.rank]

    def _without_bad(self, found: list[Place]) -> list[Place]:
        """Samples known to be bad are not tried again."""
        bad = self.quarantine.ids
        if not bad or self.recipe.on_bad != "substitute":
            return found
        return [self._instead(place) if place.id in bad else place for place in found]

    def _instead(self, place: Place) -> Place:
        """What a worker would end up with."""
        for attempt in range(1, ATTEMPTS + 1):
            jump = place.position + self.order.samples * attempt + 1
            [other] = places(self.order, self.seed, np.array([jump]))
            if other.id not in self.quarantine.ids:
                return other._replace(position=place.position)
        return place

    def state(self, position: int) -> dict[str, object]:
        """Everything that resuming at `position` needs, as JSON."""
        recipe = self.recipe
        return {
            "version": VERSION,
            "data": self.shards.fingerprint,
            "seed": self.seed,
            "block": recipe.block,
            "pool": recipe.pool,
            "lanes": recipe.lanes,
            "batch_size": self.batch_size,
            "position": position,
            "mixture": self.order.state() if isinstance(self.order, Mixture) else None,
            **self.quarantine.together([self.quarantine.found]),
        }

    def restore(self, state: Mapping[str, object]) -> int:
        """Takes what `state` gave; returns the position.

        Other workers, ranks and micro-batches are fine. Another batch size goes on from the
        position.

        Raises:
            UsageError: the state is of other data or of another order; names the field.
        """
        position = int(str(state["position"]))
        now = self.state(position)
        for name in ("version", "data", "seed", "block", "pool", "lanes"):
            if state.get(name) != now[name]:
                if name == "data":
                    raise UsageError(
                        "cannot resume: the run was started on other data; give the same shards, "
                        "or start another run"
                    )
                raise UsageError(
                    f"cannot resume: the loader's {name} was {state.get(name)!r} and is "
                    f"{now[name]!r}; give the same shards and options, or start another run"
                )
        if isinstance(self.order, Mixture):
            mixture = state["mixture"]
            assert isinstance(mixture, dict)
            self.__dict__["order"] = self.order.restored(mixture)
        ids, counts = state.get("bad_ids", []), state.get("bad_counts", {})
        assert isinstance(ids, list)
        assert isinstance(counts, dict)
        self.quarantine.restore(ids, counts)
        return position
