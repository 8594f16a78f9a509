"""Shards -> batches, in an order that neither workers nor interruptions change.

The sequence of batches is a function of the shards, the seed, and the position; the position is one
integer and says all that resuming needs.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.order import Order, key
from zoo.data.shards import ShardSet
from zoo.errors import DataError
from zoo.registry.recipe import LoaderRecipe

__all__ = ["Loader", "sample_generator"]

Batch = dict[str, Tensor]
Place = tuple[int, int]  # epoch, sample id
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
            batch_sampler=_Batches(self.order, self.batch_size, position),
            num_workers=workers,
            collate_fn=_collate_with(self.collate),
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class _Samples(Dataset[Batch]):
    """(epoch, id) -> tensors; chance depends on these two and the seed only."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, place: Place) -> Batch:
        epoch, index = place
        loader = self.loader
        members = loader.shards.read(index)
        try:
            sample = {"__key__": loader.shards.key(index), **loader.decode(members)}
            return loader.prepare(sample, sample_generator(loader.seed, epoch, index))
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
    batch_size: int
    position: int

    def __iter__(self) -> Iterator[list[Place]]:
        position = self.position
        while True:
            positions = np.arange(position, position + self.batch_size)
            epochs, ids = self.order.epochs(positions), self.order.ids(positions)
            yield list(zip(epochs.tolist(), ids.tolist(), strict=True))
            position += self.batch_size


@dataclass(frozen=True)
class _collate_with:  # noqa: N801 - a function that can be pickled
    collate: Callable[[Sequence[Batch]], Batch]

    def __call__(self, samples: list[Batch] | DataError) -> Batch | DataError:
        return samples if isinstance(samples, DataError) else self.collate(samples)


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The source of all chance about one sample in one epoch."""
    with np.errstate(over="ignore"):
        word = int(key(seed, epoch, _AUGMENT, index)[0])
    return torch.Generator().manual_seed(word >> 1)  # torch wants a signed 64-bit number
