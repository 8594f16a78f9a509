"""Shards -> batches, in an order that neither workers nor interruptions change.

The sequence of batches is a function of the shards, the seed, and the position; the position is one
integer and says all that resuming needs.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.order import Order, key
from zoo.data.shards import ShardSet
from zoo.errors import DataError
from zoo.registry.recipe import LoaderRecipe

__all__ = ["Loader", "sample_seeds"]

Batch = dict[str, Tensor]
Place = tuple[int, int]  # sample id, seed of everything random about it
_AUGMENT = 4  # what a key is for


@dataclass(frozen=True)
class Loader:
    """Endless batches; `iterate(position)` starts anywhere at once.

    Attributes:
        shards: where the samples are.
        decode: members of a sample -> sample (the modality's codec).
        prepare: sample and its own generator -> tensors (augmentation, then the objective's views).
        collate: tensors of several samples -> a batch.
        batch_size: samples of a batch.
        recipe: workers and shuffling.
        seed: of the order and of everything random about a sample.
    """

    shards: ShardSet
    decode: Callable[[Mapping[str, bytes]], dict[str, object]]
    prepare: Callable[[dict[str, object], torch.Generator], Batch]
    collate: Callable[[Sequence[Batch]], Batch]
    batch_size: int
    recipe: LoaderRecipe
    seed: int

    @property
    def order(self) -> Order:
        """The order of samples."""
        return Order(
            samples=len(self.shards),
            seed=self.seed,
            block=self.recipe.block,
            pool=self.recipe.pool,
        )

    def iterate(self, position: int) -> Iterator[Batch]:
        """Batches from a position, counted in samples over all epochs.

        Raises:
            DataError: a sample cannot be read; names shard and key.
        """
        workers = self.recipe.workers
        if workers is None:
            workers = min(8, max(1, (os.cpu_count() or 1) - 1))
        loader = DataLoader(
            _Samples(self),
            batch_sampler=_Batches(self.order, self.seed, self.batch_size, position),
            num_workers=workers,
            collate_fn=_collate_with(self.collate),
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _Samples(Dataset[Batch]):
    """A place -> tensors."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, place: Place) -> Batch:
        index, seed = place
        loader = self.loader
        members = loader.shards.read(index)
        try:
            sample = {"__key__": loader.shards.key(index), **loader.decode(members)}
            return loader.prepare(sample, torch.Generator().manual_seed(seed))
        except DataError as error:
            raise DataError(f"{loader.shards.describe(index)}: {error}") from None

    def __getitems__(self, places: list[Place]) -> list[Batch] | DataError:
        # An exception that leaves a worker comes back with a page of traceback in its message.
        try:
            return [self[place] for place in places]
        except DataError as error:
            return error


@dataclass(frozen=True)
class _Batches:
    """Places of one batch after the other, without end."""

    order: Order
    seed: int
    batch_size: int
    position: int

    def __iter__(self) -> Iterator[list[Place]]:
        position = self.position
        while True:
            positions = np.arange(position, position + self.batch_size)
            epochs, ids = self.order.epochs(positions), self.order.ids(positions)
            seeds = sample_seeds(self.seed, epochs, ids)
            yield list(zip(ids.tolist(), seeds.tolist(), strict=True))
            position += self.batch_size


@dataclass(frozen=True)
class _collate_with:  # noqa: N801 - a function that can be pickled
    collate: Callable[[Sequence[Batch]], Batch]

    def __call__(self, samples: list[Batch] | DataError) -> Batch | DataError:
        return samples if isinstance(samples, DataError) else self.collate(samples)


def sample_seeds(seed: int, epochs: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Seeds of all chance about samples: functions of the run's seed, the epoch and the sample."""
    with np.errstate(over="ignore"):
        words = key(seed, epochs.astype(np.uint64), _AUGMENT, ids.astype(np.uint64))
    return (words >> np.uint64(1)).astype(np.int64)  # torch wants signed numbers
