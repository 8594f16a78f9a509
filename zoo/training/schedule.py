"""Learning rates as pure functions of time: resuming needs no state."""

import math

__all__ = ["cosine_with_warmup"]


def cosine_with_warmup(
    time: float, *, total: float, warmup: float, peak: float, low: float = 0.0
) -> float:
    """Linear from 0 to `peak`, then half a cosine down to `low`; as facebookresearch/mae.

    Args:
        time: steps or epochs done, fractions allowed.
        total: where the cosine ends, in the same unit.
        warmup: where the line ends.
        peak: largest value.
        low: last value.
    """
    if time < warmup:
        return peak * time / warmup
    if time >= total:
        return low
    share = (time - warmup) / (total - warmup)
    return low + (peak - low) * 0.5 * (1.0 + math.cos(math.pi * share))
