"""Linear regression from frozen features to several numbers.

Notation: N training and M test samples, D width, K targets.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["ridge_probe"]

STRENGTHS = (1.0, 10.0, 100.0, 1000.0)

Matrix = NDArray[np.floating]


def ridge_probe(
    train: Matrix,
    targets: Matrix,
    test: Matrix,
    test_targets: Matrix,
    *,
    groups: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Ridge regression on standardised features; its penalty is chosen on the training set only.

    Args:
        train: (N, D).
        targets: (N, K).
        test: (M, D).
        test_targets: (M, K).
        groups: (N,) which samples belong together (crops of a patient): to choose the penalty, each
            group in turn is told from the others.

    Returns:
        (K,) R², NaN where a target is the same for all test samples.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler

    def model(strength: float) -> Pipeline:
        return make_pipeline(StandardScaler(), Ridge(alpha=strength))

    def error(strength: float) -> float:
        told = cross_val_predict(
            model(strength), train, targets, groups=groups, cv=LeaveOneGroupOut()
        )
        return float(np.square(told - targets).mean())

    best = min(STRENGTHS, key=error)
    told = model(best).fit(train, targets).predict(test)
    spread = test_targets.var(axis=0)
    wrong = np.square(told - test_targets).mean(axis=0)
    return np.divide(spread - wrong, spread, where=spread > 0, out=np.full(len(spread), np.nan))
