"""Frozen-feature evaluation: weighted kNN and a linear probe; a score carries its protocol.

Notation: N training samples, M test samples, D width, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError

__all__ = ["Score", "knn_probe", "knn_votes", "linear_probe"]

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A probe's result with its protocol."""

    kind: str
    accuracy: float  # share of test samples, 0 to 1
    balanced: float  # mean of the classes' recalls
    protocol: str
    predictions: Labels  # (M,)


def knn_probe(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Score:
    """Weighted k-nearest-neighbour classification, the protocol of DINO (arXiv 2104.14294).

    Cosine similarity; each of the k nearest votes with exp(similarity / temperature).

    Raises:
        UsageError: shapes do not fit, or there are fewer than k training samples.
    """
    _check(train, train_labels, test, test_labels)
    if not 1 <= k <= len(train):
        raise UsageError(f"k = {k} neighbours of {len(train)} training samples")
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    votes = knn_votes(train, train_labels, test, k=k, temperature=temperature, classes=classes)
    protocol = f"weighted kNN, cosine, k={k}, temperature={temperature}"
    return _score("knn", votes.argmax(axis=1), test_labels, protocol)


def knn_votes(
    train: Features,
    train_labels: Labels,
    test: Features,
    *,
    k: int,
    temperature: float,
    classes: int,
    chunk: int = 1024,
) -> Features:
    """Votes (M, K): the sum over the k nearest of exp(cosine / temperature).

    Args:
        train: (N, D).
        train_labels: (N,) below `classes`.
        test: (M, D).
        k: neighbours.
        temperature: small values let the nearest decide.
        classes: K.
        chunk: test samples at a time; bounds the memory to chunk x N.
    """
    train, votes = _unit(train), np.zeros((len(test), classes), dtype=np.float32)
    for start in range(0, len(test), chunk):
        similarity = _unit(test[start : start + chunk]) @ train.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / temperature)
        rows = np.repeat(np.arange(len(similarity)), k)
        np.add.at(
            votes[start : start + chunk], (rows, train_labels[nearest].ravel()), weights.ravel()
        )
    return votes


def linear_probe(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    groups: Labels | None = None,
    standardize: bool = True,
    strengths: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
    seed: int = 0,
) -> Score:
    """Logistic regression on frozen features; its regulariser is chosen on the training set only.

    A fifth of the training set is held back to choose the inverse strength C, then all of it is
    used.

    Args:
        train: (N, D).
        train_labels: (N,).
        test: (M, D).
        test_labels: (M,).
        groups: (N,) samples of one group stay on one side of the split.
        standardize: bring every feature to mean 0 and deviation 1; not for sparse counts.
        strengths: values of C to try.
        seed: of the split.

    Raises:
        UsageError: shapes do not fit, or there is only one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupShuffleSplit, StratifiedShuffleSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(train, train_labels, test, test_labels)
    if len(np.unique(train_labels)) < 2:
        raise UsageError("a linear probe needs at least two classes in the training set")

    def fitted(c: float, x: Features, y: Labels) -> object:
        model = LogisticRegression(C=c, max_iter=2000)
        return (make_pipeline(StandardScaler(), model) if standardize else model).fit(x, y)

    splitter = StratifiedShuffleSplit if groups is None else GroupShuffleSplit
    split = splitter(n_splits=1, test_size=0.2, random_state=seed)
    fit, held = next(split.split(train, train_labels, groups))
    tried = {
        c: fitted(c, train[fit], train_labels[fit]).score(train[held], train_labels[held])  # type: ignore[attr-defined]
        for c in strengths
    }
    best = max(strengths, key=lambda c: tried[c])
    predictions = fitted(best, train, train_labels).predict(test)  # type: ignore[attr-defined]
    scaled = "standardised features" if standardize else "features as they are"
    protocol = f"logistic regression on {scaled}, C={best:g} chosen on a fifth of the training set"
    return _score("linear", predictions, test_labels, protocol)


def _score(kind: str, predictions: Labels, labels: Labels, protocol: str) -> Score:
    right = predictions == labels
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    return Score(
        kind=kind,
        accuracy=float(right.mean()),
        balanced=float(np.mean(recalls)),
        protocol=protocol,
        predictions=predictions,
    )


def _check(train: Features, train_labels: Labels, test: Features, test_labels: Labels) -> None:
    if not train.shape[0] or not test.shape[0]:
        raise UsageError("a probe needs training and test samples")
    if train.shape[0] != len(train_labels) or test.shape[0] != len(test_labels):
        raise UsageError("a probe needs one label for each sample")
    if train.shape[1] != test.shape[1]:
        raise UsageError(f"features of width {train.shape[1]} and {test.shape[1]} do not fit")


def _unit(features: Features) -> Features:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), dtype=np.float32)
