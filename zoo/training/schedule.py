"""Learning rates as pure functions of the step: resuming needs no state.

A schedule is a list of phases, each of which says by when the rate has gone where, and how. Phases
that end where they begin are jumps. Warm-up and half a cosine are those of facebookresearch/mae,
WSD is that of timm (arXiv 2404.06395), or of torchtitan with `first_update=1`, infinite rates are
those of arXiv 2503.02844.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from zoo.registry.recipe import TrainRecipe

__all__ = ["Phase", "Schedule", "build_schedule"]

_EXP_RATIO = 0.1  # of timm's "exp"


Shape = Literal["linear", "cosine", "1-sqrt", "rsqrt", "exponential", "exp", "constant"]


@dataclass(frozen=True, slots=True)
class Phase:
    """By `until`, the rate has gone to `value`.

    Shapes, with p from 0 to 1: `linear`; `cosine`, half of one; `1-sqrt`, 1 - sqrt(p); `rsqrt`,
    1 / sqrt(a + b p) through both ends; `exponential`, a straight line of the logarithm; `exp`,
    timm's exponential to a tenth, stretched so that it ends at `value`; `constant` is at `value`
    all the time.
    """

    until: float
    value: float
    shape: Shape = "linear"

    def at(self, elapsed: float, length: float, start: float) -> float:
        """The rate when `elapsed` of the phase's `length` are over; it began at `start`."""
        if self.shape == "linear":
            return start + (self.value - start) * elapsed / length
        return _CURVES[self.shape](start, self.value, elapsed / length)


def _shifted_exponential(start: float, end: float, p: float) -> float:
    return end + (start - end) * (_EXP_RATIO**p - _EXP_RATIO) / (1.0 - _EXP_RATIO)


# (start, end, p) -> rate
_CURVES: dict[str, Callable[[float, float, float], float]] = {
    "constant": lambda start, end, p: end,
    "cosine": lambda start, end, p: end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * p)),
    "1-sqrt": lambda start, end, p: end + (start - end) * (1.0 - math.sqrt(p)),
    "rsqrt": lambda start, end, p: start / math.sqrt(1.0 + ((start / end) ** 2 - 1.0) * p),
    "exponential": lambda start, end, p: start * (end / start) ** p,
    "exp": _shifted_exponential,
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate of each update, counted from 0; from 0 through all phases, then flat."""

    phases: tuple[Phase, ...]
    first: int = 0  # the time of update 0

    def __call__(self, step: float) -> float:
        """The rate of update `step`; fractions are allowed."""
        time, begin, start = step + self.first, 0.0, 0.0
        for phase in self.phases:
            if time < phase.until:
                return phase.at(time - begin, phase.until - begin, start)
            begin, start = phase.until, phase.value
        return start


def build_schedule(recipe: TrainRecipe, samples: int) -> Schedule:
    """The schedule of a recipe, in steps, for a data set of `samples`."""
    unit = recipe.steps_per_unit(samples)
    # Counted from 1, the end lies one step after the last update, whose rate stays above the end.
    total = recipe.total_steps(samples) + recipe.first_update
    begins = [0.0, *(begin * unit for begin in recipe.restarts)]
    phases: list[Phase] = []
    for begin, end in zip(begins, [*begins[1:], total], strict=True):
        if begin:
            phases.append(Phase(begin, 0.0, "constant"))
        phases += _stage(recipe, begin, end, unit)
    return Schedule(tuple(phases), first=recipe.first_update)


def _stage(recipe: TrainRecipe, begin: float, end: float, unit: float) -> Iterator[Phase]:
    """Warm-up, body and anneal between two times."""
    peak, low = recipe.peak_lr, recipe.min_lr
    warm = begin + recipe.warmup * unit
    stop = end - recipe.anneal * unit
    yield Phase(warm, peak)
    match recipe.schedule:
        case "cosine" | "linear":
            yield Phase(end, low, recipe.schedule)
            return
        case "constant" | "wsd":
            yield Phase(stop, peak, "constant")
        case "rsqrt":
            yield Phase(stop, peak * math.sqrt((warm - begin) / (stop - begin)), "rsqrt")
        case "infinite":
            assert recipe.constant_lr is not None
            yield Phase(warm + recipe.cooldown * unit, recipe.constant_lr, "cosine")
            yield Phase(stop, recipe.constant_lr, "constant")
    if recipe.anneal:
        yield Phase(end, low, recipe.anneal_shape)
