"""Losses of classifiers.

Notation: B samples, K classes.
"""

from typing import Literal

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

__all__ = ["Several", "asymmetric", "classification_loss"]

Several = Literal["asymmetric", "bce"]  # losses of samples with any number of labels
_POSITIVE, _NEGATIVE, _MARGIN = 1, 4, 0.05  # of arXiv 2009.14119, as Bird-MAE sets them


def asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """Asymmetric loss for multi-label classification (arXiv 2009.14119), a mean over B * K.

    Easy negatives count less, those below a probability of 0.05 not at all; gradients flow through
    the focusing weights, as in Bird-MAE.

    Args:
        logits: (B, K).
        targets: (B, K) zeros and ones.
    """
    p = logits.sigmoid()
    q = (1 - p + _MARGIN).clamp(max=1)
    positive = targets * (1 - p) ** _POSITIVE * p.clamp(min=1e-8).log()
    negative = (1 - targets) * (1 - q) ** _NEGATIVE * q.clamp(min=1e-8).log()
    return -(positive + negative).mean()


def classification_loss(logits: Tensor, targets: Tensor, several: Several) -> Tensor:
    """Cross-entropy for labels (B,); for (B, K) `asymmetric`, or binary cross-entropy."""
    if targets.ndim == 1:
        return cross_entropy(logits, targets)
    if several == "bce":
        return binary_cross_entropy_with_logits(logits, targets)
    return asymmetric(logits, targets)
