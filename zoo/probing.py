"""Frozen-feature evaluation: weighted kNN and a linear probe; a score carries its protocol.

Notation: N training samples, M test samples, D width, K classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError
from zoo.probes.score import Labels, Score, class_count, score_of

__all__ = ["knn_probe", "knn_votes", "linear_probe"]

Features = NDArray[np.float32]
_HELD = 0.2  # share of the training set that a hyperparameter is chosen on


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
    classes = class_count(train_labels, test_labels)
    votes = knn_votes(train, train_labels, test, k=k, temperature=temperature, classes=classes)
    protocol = f"weighted kNN, cosine, k={k}, temperature={temperature}"
    return score_of("knn", votes, test_labels, protocol)


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
        train_labels: (N,) below `classes`; or (N, K), and a neighbour votes for all its labels.
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
        mine, rows = votes[start : start + chunk], np.arange(len(similarity))
        for neighbour, weight in zip(nearest.T, weights.T, strict=True):
            if train_labels.ndim == 1:
                mine[rows, train_labels[neighbour]] += weight
            else:
                mine += weight[:, None] * train_labels[neighbour]
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
    used. Where that leaves a class out, C is 1.

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
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(train, train_labels, test, test_labels)
    if len(np.unique(train_labels)) < 2:
        raise UsageError("a linear probe needs at least two classes in the training set")

    def fitted(c: float, x: Features, y: Labels) -> Pipeline:
        model = LogisticRegression(C=c, max_iter=2000)
        steps = [StandardScaler(), model] if standardize else [model]
        return make_pipeline(*steps).fit(x, y)

    best, how = 1.0, "for want of samples to choose it on"
    if groups is not None or _can_be_split(train_labels):
        splitter = StratifiedShuffleSplit if groups is None else GroupShuffleSplit
        split = splitter(n_splits=1, test_size=_HELD, random_state=seed)
        fit, held = next(split.split(train, train_labels, groups))
        tried = {
            c: fitted(c, train[fit], train_labels[fit]).score(train[held], train_labels[held])
            for c in strengths
        }
        best = max(strengths, key=lambda c: tried[c])
        how = "chosen on a fifth of the training set"
    model = fitted(best, train, train_labels)
    scores = np.zeros((test.shape[0], class_count(train_labels, test_labels)), dtype=np.float32)
    scores[:, np.unique(train_labels)] = model.predict_proba(test)
    scaled = "standardised features" if standardize else "features as they are"
    protocol = f"logistic regression on {scaled}, C={best:g} {how}"
    return score_of("linear", scores, test_labels, protocol)


def _can_be_split(labels: Labels) -> bool:
    """Whether a held-back fifth and the rest can both have every class."""
    counts = np.unique(labels, return_counts=True)[1]
    return bool(counts.min() >= 2 and _HELD * len(labels) >= len(counts))


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
