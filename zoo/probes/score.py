"""What a probe found, with its protocol.

Notation: M test samples, K classes, S seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.probes.metrics import Scores, auroc, average_precision, top1

__all__ = [
    "Labels",
    "Score",
    "bootstrap",
    "class_count",
    "mean_score",
    "multi_hot",
    "score_of",
]

# (N,) whole numbers, or (N, K) zeros and ones where a sample has any number of labels
Labels = NDArray[np.int64]
Metric = Literal["accuracy", "balanced", "cmap", "auroc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A probe's result: numbers between 0 and 1, means over `runs` where there are several."""

    kind: str
    protocol: str
    accuracy: float  # top-1, of the test samples that have a label
    balanced: float  # mean of the classes' recalls; NaN where samples have several labels
    cmap: float  # class-wise mean average precision
    auroc: float
    skipped: int  # classes without a positive test sample: no part of cmap
    predictions: Labels  # (M,) the best class; of the first run
    runs: tuple["Score", ...] = ()  # one a seed

    def interval(self, metric: Metric = "accuracy") -> tuple[float, float]:
        """95 % bootstrap interval of the mean over seeds; (NaN, NaN) for fewer than two."""
        return bootstrap([getattr(run, metric) for run in self.runs])


def score_of(kind: str, scores: Scores, labels: Labels, protocol: str) -> Score:
    """Measures scores (M, K) against labels (M,) or (M, K)."""
    targets = multi_hot(labels, scores.shape[1]).astype(bool)
    best = scores.argmax(axis=1)
    balanced = float("nan")
    if labels.ndim == 1:
        balanced = float(np.mean([(best[labels == c] == c).mean() for c in np.unique(labels)]))
    cmap, skipped = average_precision(scores, targets)
    return Score(
        kind=kind,
        protocol=protocol,
        accuracy=top1(scores, targets),
        balanced=balanced,
        cmap=cmap,
        auroc=auroc(scores, targets),
        skipped=skipped,
        predictions=best,
    )


def mean_score(runs: Sequence[Score]) -> Score:
    """One score of several seeds."""

    def mean(metric: Metric) -> float:
        return float(np.mean([getattr(run, metric) for run in runs]))

    return replace(
        runs[0],
        accuracy=mean("accuracy"),
        balanced=mean("balanced"),
        cmap=mean("cmap"),
        auroc=mean("auroc"),
        runs=tuple(runs),
    )


def class_count(*labels: Labels) -> int:
    """K of some labels together."""
    return max(one.shape[1] if one.ndim == 2 else int(one.max()) + 1 for one in labels)


def multi_hot(labels: Labels, classes: int) -> NDArray[np.float32]:
    """(N,) or (N, up to K) labels as (N, K) zeros and ones."""
    if labels.ndim == 2:
        missing = classes - labels.shape[1]
        return np.pad(labels, ((0, 0), (0, missing))).astype(np.float32)
    return np.eye(classes, dtype=np.float32)[labels]


def bootstrap(values: Sequence[float], *, draws: int = 10_000) -> tuple[float, float]:
    """Percentile interval, 2.5 to 97.5, of the mean of `values` drawn with replacement."""
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = rng.choice(np.asarray(values), size=(draws, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
