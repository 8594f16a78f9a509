"""Macro metrics over classes, as BirdSet defines them (arXiv 2403.10380).

A class without positives among the test samples has no average precision: it is left out of the
mean and counted. Samples without any label stay in, but for the top-1 accuracy, which is that of
the samples with a label.

Notation: M samples, K classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["auroc", "average_precision", "top1"]

Scores = NDArray[np.float32]
Targets = NDArray[np.bool_]


def average_precision(scores: Scores, targets: Targets) -> tuple[float, int]:
    """Class-wise mean of the average precision (cmAP), exact thresholds.

    Args:
        scores: (M, K), larger is more likely.
        targets: (M, K).

    Returns:
        The mean, NaN where no class has positives; and how many classes had none.
    """
    from sklearn.metrics import average_precision_score

    used = np.asarray(targets.any(axis=0))
    return _macro(average_precision_score, scores, targets, used), int((~used).sum())


def auroc(scores: Scores, targets: Targets) -> float:
    """Mean area under the ROC curve of the classes that have positives and negatives.

    Args:
        scores: (M, K), larger is more likely.
        targets: (M, K).
    """
    from sklearn.metrics import roc_auc_score

    used = np.asarray(targets.any(axis=0) & ~targets.all(axis=0))
    return _macro(roc_auc_score, scores, targets, used)


def top1(scores: Scores, targets: Targets) -> float:
    """Of the samples with a label: the share whose best class is one of their labels.

    Args:
        scores: (M, K), larger is more likely.
        targets: (M, K).
    """
    labelled = targets.any(axis=1)
    if not labelled.any():
        return float("nan")
    best = scores[labelled].argmax(axis=1)
    return float(np.take_along_axis(targets[labelled], best[:, None], axis=1).mean())


def _macro(
    metric: Callable[[Targets, Scores], float], scores: Scores, targets: Targets, used: Targets
) -> float:
    values = [metric(targets[:, c], scores[:, c]) for c in np.flatnonzero(used)]
    return float(np.mean(values)) if values else float("nan")
