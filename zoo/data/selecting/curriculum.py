"""Which samples a model is ready for: item response theory with one parameter (Rasch).

P(correct) = sigmoid(ability - difficulty); PUDF, predecessor code nd-ball/cl-irt.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ability", "hardest"]

_HALVINGS = 64  # of an interval no wider than the number of answers: below float64's precision


def ability(difficulties: NDArray[np.floating], correct: NDArray[np.bool_]) -> float:
    """The most probable ability under the prior N(0, 1).

    Args:
        difficulties: (n,) of the items that were answered.
        correct: (n,) whether the answers were right.
    """
    sign = np.where(correct, 1.0, -1.0)
    low, high = -1.0 - len(sign), 1.0 + len(sign)
    for _ in range(_HALVINGS):  # the slope of the log posterior falls everywhere
        middle = (low + high) / 2
        margin = np.clip(sign * (middle - difficulties), -700, 700)  # exp stays finite
        slope = -middle + float((sign / (1 + np.exp(margin))).sum())
        low, high = (middle, high) if slope > 0 else (low, middle)
    return (low + high) / 2


def hardest(theta: float, success: float = 0.5) -> float:
    """The difficulty at which a model of ability `theta` is right with probability `success`."""
    return theta + math.log(1 / success - 1)
