"""Data sets made of others: several in a row, a view of one; and what `--data` may name."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.fetch import Samples
from zoo.data.listing import Shards
from zoo.data.mixture import Mixture
from zoo.data.mixture_file import read_mixture
from zoo.data.order import Order
from zoo.data.selecting.view import View, read_view
from zoo.data.shard.index import Event
from zoo.data.shard.opened import Read, Where
from zoo.data.shards import ShardSet
from zoo.errors import UsageError
from zoo.registry.recipe import LoaderRecipe

__all__ = ["Joined", "Viewed", "open_data"]

Ids = NDArray[np.int64]


class Joined:
    """Several data sets, one after the other."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Digest of those of the parts."""
        return hashlib.sha256("".join(p.fingerprint for p in self.parts).encode()).hexdigest()

    def read_many(self, ids: Ids) -> Iterator[Read]:
        """Samples, part by part."""
        numbers, own = self._split(ids)
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            for place, sample in self.parts[number].read_many(own[places]):
                yield int(places[place]), sample

    def where(self, index: int) -> Where:
        """Shard, number in it, and key of a sample."""
        numbers, own = self._split(np.array([index]))
        return self.parts[int(numbers[0])].where(int(own[0]))

    @property
    def events(self) -> dict[str, tuple[Event, ...]]:
        """Those of all parts."""
        return {shard: events for part in self.parts for shard, events in part.events.items()}

    def _split(self, ids: Ids) -> tuple[Ids, Ids]:
        numbers = np.searchsorted(self._ends, ids, side="right")
        return numbers, ids - np.concatenate([[0], self._ends])[numbers]


class Viewed:
    """Samples of a data set that a view chose."""

    def __init__(self, samples: Samples, view: View) -> None:
        """Puts a view on the data set that it was made from.

        Raises:
            UsageError: it was made from other data.
        """
        if view.parents[:1] != (samples.fingerprint,):
            raise UsageError(
                "the view was made from other data than these shards: give the shards that it was "
                "made from, or make it again"
            )
        self.samples, self.view = samples, view

    def __len__(self) -> int:
        return len(self.view)

    @property
    def fingerprint(self) -> str:
        """The view's, which includes its parent's."""
        return self.view.fingerprint

    def read_many(self, ids: Ids) -> Iterator[Read]:
        """Samples by their positions in the view."""
        return self.samples.read_many(self.view.map(ids))

    def where(self, index: int) -> Where:
        """Shard, number in it, and key of a sample."""
        return self.samples.where(int(self.view.map(np.array([index]))[0]))

    @property
    def events(self) -> Mapping[str, tuple[Event, ...]]:
        """Those of the whole data set."""
        return self.samples.events


def open_data(
    data: Shards, recipe: LoaderRecipe, *, seed: int = 0, batch_size: int = 256
) -> tuple[Samples, Mixture | None]:
    """What a recipe reads, and the order of its samples where that is a mixture.

    Args:
        data: shards, or a TOML file with a mixture of several (`zoo.data.mixture_file`).
        recipe: what is required of samples, and the view of them.
        seed: of the mixture.
        batch_size: positions in which a mixture's shares are exact, where its file does not say.

    Raises:
        UsageError, ConfigError, DataError: it is not there, or not as it should be.
    """
    mixture = None
    if isinstance(data, str | Path) and str(data).endswith(".toml"):
        file = read_mixture(Path(data))
        parts = [_open(source.data, recipe) for source in file.mixture]
        samples: Samples = Joined(parts)
        order = {"block": recipe.block, "pool": recipe.pool, "lanes": recipe.lanes}
        mixture = Mixture(
            orders=tuple(Order(samples=len(part), **order) for part in parts),
            weights=tuple(source.weight for source in file.mixture),
            window=file.window or batch_size,
            seed=seed,
            stop=file.stop,
            max_epochs=tuple(source.max_epochs for source in file.mixture),
        )
    else:
        samples = _open(data, recipe)
    if recipe.view is not None:
        if mixture is not None:
            raise UsageError("a view of a mixture: put the view's shards into the mixture instead")
        samples = Viewed(samples, read_view(Path(recipe.view)))
    return samples, mixture


def _open(data: Shards, recipe: LoaderRecipe) -> ShardSet:
    return ShardSet(
        data,
        require=recipe.require,
        strict=recipe.on_bad == "raise",
        allow_missing=recipe.allow_missing,
    )
