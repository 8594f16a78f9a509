"""Two ways under the same seeds: the gain, with an interval that says what it is worth."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from zoo.benchmarks.claims.claim import Comparison

from zoo.probes.score import bootstrap

__all__ = ["Gain", "Verdict", "gain", "interval", "overall"]

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """By how much `ours` is better than `base`, mean over seeds; below 0 it is worse.

    Attributes:
        mean: of the paired differences.
        interval_95: Student's t, which the verdict goes by: resampling three or five seeds gives
            an interval that is too narrow.
        bootstrap_95: percentiles of resampled seeds, as papers like to state.
        verdict: the interval lies above, below, or around what the claim needs.
    """

    mean: float
    interval_95: tuple[float, float]
    bootstrap_95: tuple[float, float]
    verdict: Verdict


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of the mean of paired differences; NaN for fewer than two."""
    from scipy.special import stdtrit

    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        return float("nan"), float("nan")
    half = float(stdtrit(count - 1, 0.975) * np.std(differences, ddof=1) / count**0.5)
    return mean - half, mean + half


def gain(comparison: Comparison, values: Mapping[str, Sequence[float]]) -> Gain:
    """What one comparison found in the paired values of every way."""
    differences = np.subtract(values[comparison.ours], values[comparison.base])
    if comparison.better == "lower":
        differences = -differences
    low, high = interval(differences.tolist())
    verdict: Verdict = "inconclusive"
    if low > comparison.least:
        verdict = "reproduced"
    elif high < comparison.least:
        verdict = "not reproduced"
    return Gain(
        mean=float(differences.mean()),
        interval_95=(low, high),
        bootstrap_95=bootstrap(differences.tolist()),
        verdict=verdict,
    )


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """A claim is reproduced if all its comparisons are, and not if one of them is not."""
    found = set(verdicts)
    if "not reproduced" in found:
        return "not reproduced"
    return "inconclusive" if "inconclusive" in found else "reproduced"
