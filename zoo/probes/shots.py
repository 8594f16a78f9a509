"""A few labelled samples of each class."""

import numpy as np
from numpy.typing import NDArray

from zoo.probes.score import Labels, class_count, multi_hot

__all__ = ["choose"]


def choose(labels: Labels, shots: int, *, seed: int) -> NDArray[np.int64]:
    """Which samples to take: `shots` of each class at random, fewer where a class has fewer.

    Args:
        labels: (N,) or (N, K); a sample of several classes counts for each of them.
        shots: of each class.
        seed: of the choice.

    Returns:
        Indices, ascending.
    """
    rng = np.random.default_rng(seed)
    targets = multi_hot(labels, class_count(labels)).astype(bool)
    taken = np.zeros(len(labels), dtype=bool)
    for members in targets.T:
        missing = shots - int((members & taken).sum())
        free = np.flatnonzero(members & ~taken)
        taken[rng.permutation(free)[: max(0, missing)]] = True
    return np.flatnonzero(taken)
