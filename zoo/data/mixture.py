"""Mixtures: several data sets in one order, with exact counts and nothing to remember but a log.

Positions come in windows of T. Window k holds N_d(k + 1) - N_d(k) samples of data set d, where the
N_d(k) split the first k * T positions by the weights: down a binary tree over the data sets, a node
with n positions gives floor(n * share) to its left half. Weights are taken as the exact fractions
that the floats are, and the rest is whole numbers, so no machine rounds differently. Weights change
at windows only; the log of changes says everything. Normative text: specification `data`, 2.5.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.order import Order, Purpose, key, perm
from zoo.errors import ConfigError, UsageError
from zoo.registry.schema import read, to_table

__all__ = ["FixedWeights", "Mixture", "Segment", "Stop"]

Positions = NDArray[np.int64]
Stop = Literal["first", "longest", "never"]
_CHUNK = 4096  # positions of a data set that are put in order together
_LAST = 2**63 - 1  # of positions


@dataclass(frozen=True, slots=True)
class Segment:
    """Windows with the same weights."""

    start: int  # window
    weights: tuple[float, ...]  # (D,) up to a factor; all zero: the mixture ends here
    counts: tuple[int, ...]  # (D,) samples of each data set before `start`


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Which sample of D data sets stands at which position; used like an `Order`.

    Ids count in the concatenation of the data sets. A data set that has no sample left is dropped
    at the window before, and the others share its weight.

    Attributes:
        orders: one a data set; their seeds become key(seed, d).
        weights: (D,) shares of the data sets, up to a factor.
        window: T, positions in which the shares are exact.
        seed: of the shuffling inside the windows, and of the orders.
        stop: `first`: when a data set has no sample left; `longest`: when each has been seen
            as a whole; `never`: goes on while any data set has samples.
        max_epochs: (D,) passes over each data set; None: 1 with stop="first", else no limit.
        since: window of the latest change of weights by `changed`.
        log: what holds from which window on; made here when not given.
    """

    orders: tuple[Order, ...]
    weights: tuple[float, ...]
    window: int
    seed: int = 0
    stop: Stop = "never"
    max_epochs: tuple[float | None, ...] = ()
    since: int = 0
    log: tuple[Segment, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.orders)
        _check_weights(self.weights, count)
        if self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")
        if len(self.max_epochs) not in (0, count):
            raise ValueError(f"max_epochs must be one for each of {count} data sets")
        if any(most is not None and not 0 < most < math.inf for most in self.max_epochs):
            raise ValueError(f"max_epochs must be above 0 and finite: {self.max_epochs}")
        seeds = [int(key(self.seed, d)[0]) for d in range(count)]
        orders = (replace(o, seed=s) for o, s in zip(self.orders, seeds, strict=True))
        object.__setattr__(self, "orders", tuple(orders))
        if not self.log:
            log = self._with_ends(Segment(0, self.weights, (0,) * count))
            object.__setattr__(self, "log", log)
            if log[0].weights != self.weights:
                raise ValueError(
                    f"a window of {self.window} positions takes more samples of a data set "
                    "than it may give: make the window smaller, or its max_epochs larger"
                )

    @property
    def samples(self) -> int:
        """Of all data sets."""
        return sum(order.samples for order in self.orders)

    @property
    def length(self) -> int | None:
        """Positions until the mixture stops; None when it never does."""
        last = self.log[-1]
        return None if any(last.weights) else last.start * self.window

    def epochs(self, positions: Positions) -> Positions:
        """Which pass over its own data set each position belongs to."""
        source, own = self._places(positions)
        return own // np.array([order.samples for order in self.orders])[source]

    def ids(self, positions: Positions) -> Positions:
        """Sample ids, below `samples`, at any positions >= 0 and below `length`.

        Raises:
            UsageError: the mixture stops before.
        """
        source, own = self._places(positions)
        result = np.empty_like(own)
        offset = 0
        for d, order in enumerate(self.orders):
            mine = source == d
            result[mine] = offset + _ids(order, own[mine])
            offset += order.samples
        return result

    def counts(self, window: int) -> tuple[int, ...]:
        """(D,) samples of each data set in all windows before `window`."""
        segment = self._segment(window)
        return _plus(segment, (window - segment.start) * self.window)

    def changed(self, window: int, weights: Sequence[float] | NDArray[np.float64]) -> "Mixture":
        """The same until `window`, with other weights from there on.

        Changes come in the order of their windows; the same weights again are no change.

        Raises:
            ValueError: the weights are none, or weights changed later or the mixture ended before.
        """
        new = tuple(float(weight) for weight in weights)
        _check_weights(new, len(self.orders))
        ended = self.length is not None and window * self.window >= self.length
        if window < self.since or ended:
            raise ValueError(f"weights cannot change at window {window} any more: {self.log[-1]}")
        if new == self.weights:
            return self
        before = [segment for segment in self.log if segment.start < window]
        after = self._with_ends(Segment(window, new, self.counts(window)))
        return replace(self, weights=new, since=window, log=(*before, *after))

    def state(self) -> dict[str, object]:
        """The weights and their log, as JSON can hold them."""
        return to_table(_State(self.weights, self.since, self.log))

    def restored(self, state: Mapping[str, object]) -> "Mixture":
        """This mixture with the log of another run of it.

        Raises:
            ConfigError: the state is of other data sets or another window.
        """
        found = read(_State, state, where="state of the mixture")
        count = len(self.orders)
        fits = [
            len(segment.weights) == len(segment.counts) == count
            and sum(segment.counts) == segment.start * self.window
            for segment in found.log
        ]
        if not fits or not all(fits):
            raise ConfigError(
                "state of the mixture: it is of other data sets or another window; "
                "continue with the mixture that the run began with"
            )
        return replace(self, weights=found.weights, since=found.since, log=found.log)

    def _places(self, positions: Positions) -> tuple[Positions, Positions]:
        """(n,) data sets, and (n,) positions in their own orders."""
        g = np.asarray(positions, dtype=np.int64)
        if self.length is not None and g.size and int(g.max()) >= self.length:
            raise UsageError(
                f"the mixture ends after {self.length} samples (stop={self.stop!r}): "
                "train for fewer steps, or raise max_epochs"
            )
        size = self.window
        windows, slots = g // size, (g % size).astype(np.uint64)
        with np.errstate(over="ignore"):
            keys = key(self.seed, windows.astype(np.uint64), Purpose.MIXTURE_WINDOW)
            slots = perm(slots, np.uint64(size), keys)
        distinct, which = np.unique(windows, return_inverse=True)
        before = np.array([self.counts(k) for k in distinct.tolist()])
        after = np.array([self._end_of(k) for k in distinct.tolist()])
        ends = np.cumsum(after - before, axis=1)  # (windows, D): where each data set's slots end
        rows = np.arange(len(distinct))[:, None] * size
        flat = np.searchsorted(
            (ends + rows).ravel(), which * size + slots.astype(np.int64), "right"
        )
        source = flat - which * len(self.orders)
        first = ends[which, source] - (after - before)[which, source]
        return source, before[which, source] + slots.astype(np.int64) - first

    def _segment(self, window: int) -> Segment:
        return self.log[bisect_right(self.log, window, key=lambda segment: segment.start) - 1]

    def _end_of(self, window: int) -> tuple[int, ...]:
        """Counts after a window, by the weights that hold in it."""
        segment = self._segment(window)
        return _plus(segment, (window + 1 - segment.start) * self.window)

    def _with_ends(self, first: Segment) -> tuple[Segment, ...]:
        """`first`, and the changes that follow from data sets having no sample left."""
        segments = [first]
        while any(segments[-1].weights):
            last = segments[-1]
            until = {
                d: self._window_of(last, d, limit + 1) - 1
                for d, limit in enumerate(self._limits())
                if limit is not None and last.weights[d]
            }
            if not until:
                break
            start = min(until.values())
            left = tuple(
                0.0 if self.stop == "first" or until.get(d) == start else weight
                for d, weight in enumerate(last.weights)
            )
            counts = _plus(last, (start - last.start) * self.window)
            segments[-1:] = [last] * (start > last.start) + [Segment(start, left, counts)]
        return self._until_all_seen(segments) if self.stop == "longest" else tuple(segments)

    def _until_all_seen(self, segments: list[Segment]) -> tuple[Segment, ...]:
        """The segments until every data set with a weight was seen as a whole, or dropped."""
        used = [d for d, weight in enumerate(segments[0].weights) if weight]
        end = max(self._seen_at(segments, d) for d in used)
        kept = [segment for segment in segments if segment.start < end]
        last = kept[-1] if kept else segments[0]
        counts = _plus(last, (end - last.start) * self.window)
        return (*kept, Segment(end, (0.0,) * len(self.orders), counts))

    def _seen_at(self, segments: list[Segment], d: int) -> int:
        whole = self.orders[d].samples
        last = segments[0]
        for segment in segments[1:]:
            if segment.counts[d] >= whole:
                break
            if not segment.weights[d]:
                return segment.start
            last = segment
        return self._window_of(last, d, whole)

    def _limits(self) -> list[int | None]:
        """(D,) samples that each data set may give."""
        default = 1.0 if self.stop == "first" else None
        passes = self.max_epochs or (None,) * len(self.orders)
        return [
            None if (most := given or default) is None else math.floor(most * order.samples)
            for given, order in zip(passes, self.orders, strict=True)
        ]

    def _window_of(self, segment: Segment, d: int, count: int) -> int:
        """The first window, not before the segment, before which data set d gave `count`."""
        windows = range(_LAST // self.window - segment.start)
        return segment.start + bisect_left(
            windows, count, key=lambda n: _plus(segment, n * self.window)[d]
        )


@dataclass(frozen=True, slots=True)
class FixedWeights:
    """The policy that never changes its mind."""

    shares: tuple[float, ...]

    def weights(self, window: int) -> NDArray[np.float64]:
        """(D,) the same in every window."""
        return np.array(self.shares) / sum(self.shares)

    def observe(self, window: int, metrics: Mapping[str, float]) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, object]:
        """Nothing to remember."""
        return {}

    def restore(self, state: Mapping[str, object]) -> None:
        """Nothing to continue."""


@dataclass(frozen=True, slots=True)
class _State:
    weights: tuple[float, ...]
    since: int
    log: tuple[Segment, ...]


def _check_weights(weights: tuple[float, ...], count: int) -> None:
    if len(weights) != count:
        raise ValueError(f"{count} data sets need {count} weights, not {len(weights)}")
    fine = all(0 <= weight < math.inf for weight in weights)
    if not fine or not any(weights):
        raise ValueError(f"weights must be at least 0, and one above 0: {weights}")


def _plus(segment: Segment, positions: int) -> tuple[int, ...]:
    """(D,) counts after so many positions of a segment."""
    if not positions:
        return segment.counts
    sums = _running_sums(segment.weights)

    def split(n: int, low: int, high: int) -> list[int]:
        if high - low == 1:
            return [n]
        middle = (low + high + 1) // 2
        left, whole = sums[middle] - sums[low], sums[high] - sums[low]
        to_left = n * left // whole if whole else 0
        return split(to_left, low, middle) + split(n - to_left, middle, high)

    added = split(positions, 0, len(segment.weights))
    return tuple(a + b for a, b in zip(segment.counts, added, strict=True))


@lru_cache(maxsize=256)
def _running_sums(weights: tuple[float, ...]) -> tuple[int, ...]:
    """(D + 1,) sums of the weights as whole numbers in their exact proportion.

    A weight counts as the decimal that a person would write: 0.7 is seven tenths.
    """
    ratios = [Fraction(repr(weight)) for weight in weights]
    common = math.lcm(*(ratio.denominator for ratio in ratios))
    return (0, *accumulate(int(ratio * common) for ratio in ratios))


def _ids(order: Order, positions: Positions) -> Positions:
    """The order's ids; neighbouring windows share the work of a chunk."""
    chunks, offsets = positions // _CHUNK, positions % _CHUNK
    result = np.empty_like(positions)
    for chunk in np.unique(chunks).tolist():
        mine = chunks == chunk
        result[mine] = _chunk_ids(order, chunk)[offsets[mine]]
    return result


@lru_cache(maxsize=256)  # 8 MiB
def _chunk_ids(order: Order, chunk: int) -> Positions:
    return order.ids(np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK))
