"""Mixing and selection: four roles, all pure functions of their arguments and their state.

A method of data selection is a choice in these roles. Notation: D data sets, n samples, k columns.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.data.selecting.view import View

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MixturePolicy", "OrderPolicy", "SampleOrder", "Scorer", "Selector"]


class SampleOrder(Protocol):
    """Which sample stands at which position; positions run on over epochs."""

    @property
    def samples(self) -> int:
        """How many samples it orders: ids are below."""

    def epochs(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) positions -> (n,): which pass over its data set each belongs to."""

    def ids(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) positions -> (n,) sample ids."""


class Scorer(Protocol):
    """Figures about samples."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the k figures."""

    @property
    def version(self) -> str:
        """Changes whenever the figures would."""

    def score(self, batch: Mapping[str, "Tensor"]) -> NDArray[np.float32]:
        """A batch of n samples -> (n, k); NaN where there is no figure."""


class Selector(Protocol):
    """Chooses samples by their scores."""

    def select(
        self,
        scores: NDArray[np.floating],
        *,
        sizes: NDArray[np.integer] | None = None,
        groups: NDArray[np.generic] | None = None,
        budget: int | None = None,
        seed: int = 0,
    ) -> View:
        """Chosen samples, as a view without parents.

        Args:
            scores: (n,), higher is better; NaN is never chosen.
            sizes: (n,), in the unit of the budget (bytes, tokens); 1 each when not given.
            groups: (n,), any values that sort; each group gets its share of the budget.
            budget: what the chosen sizes must reach; everything that has a score when not given.
            seed: of all chance.
        """


class MixturePolicy(Protocol):
    """Decides the weights of D data sets; called at window boundaries only."""

    def weights(self, window: int) -> NDArray[np.float64]:
        """(D,) shares from `window` on; they may depend on what was observed before it."""

    def observe(self, window: int, metrics: Mapping[str, float]) -> None:
        """Takes note of what was measured when `window` was about to be trained on."""

    def state(self) -> dict[str, object]:
        """All that was observed, as JSON can hold it."""

    def restore(self, state: Mapping[str, object]) -> None:
        """Continues from what `state` gave."""


class OrderPolicy(Protocol):
    """Decides the order of a view's samples; the default is `zoo.data.order.Order`."""

    def order(self, view: View, seed: int) -> SampleOrder:
        """An order of positions in the view, below `len(view)`; `view.map` names the samples."""
