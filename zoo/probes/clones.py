"""Clone detection on frozen features: whether two codes do the same, by BigCloneBench's F1.

Two codes are a clone when their cosine similarity reaches a threshold, which is chosen on training
pairs.

Notation: P pairs, D width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError
from zoo.probes.metrics import auroc

__all__ = ["CloneScore", "clone_probe", "f1_threshold"]

Features = NDArray[np.float32]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneScore:
    """What was found on the test pairs."""

    f1: float  # of the pairs that are clones
    precision: float
    recall: float
    auroc: float  # needs no threshold
    threshold: float


def clone_probe(
    train: tuple[Features, Features],
    train_labels: NDArray[np.int64],
    test: tuple[Features, Features],
    test_labels: NDArray[np.int64],
) -> CloneScore:
    """How well similarity tells clones.

    Args:
        train: both codes' features, (P, D) each.
        train_labels: (P,) 1 where they are clones, else 0.
        test: as `train`.
        test_labels: as `train_labels`.

    Raises:
        UsageError: a side has no clones, or nothing else.
    """
    for side, labels in (("training", train_labels), ("test", test_labels)):
        if not 0 < labels.sum() < len(labels):
            raise UsageError(f"clone detection: the {side} pairs need both clones and others")
    threshold = f1_threshold(_similarity(*train), train_labels)
    scores, true = _similarity(*test), test_labels.astype(bool)
    found = scores >= threshold
    hits = float((found & true).sum())
    precision, recall = hits / max(1, found.sum()), hits / true.sum()
    return CloneScore(
        f1=2 * hits / (found.sum() + true.sum()),
        precision=precision,
        recall=recall,
        auroc=auroc(scores[:, None].astype(np.float32), true[:, None]),
        threshold=threshold,
    )


def f1_threshold(scores: Numbers, labels: NDArray[np.int64]) -> float:
    """The score from which on F1 (P,) is best."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + labels.sum())
    f1[:-1][np.diff(scores[order]) == 0] = -1  # equal scores are taken all or none
    return float(scores[order][f1.argmax()])


def _similarity(left: Features, right: Features) -> Numbers:
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
    return np.asarray((a * b).sum(1), dtype=np.float64)
