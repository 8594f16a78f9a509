"""Any recording -> one channel at the encoder's rate."""

import importlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import UsageError

__all__ = ["mono", "resample"]

LARGEST = 1280  # of the two numbers whose ratio is that of the rates


def mono(samples: NDArray[np.float32], rate: int, to: int) -> Tensor:
    """(C, T) at `rate` -> (T',) at `to`: the mean of the channels, resampled."""
    one = samples.mean(axis=0) if len(samples) > 1 else samples[0]
    return resample(torch.from_numpy(np.ascontiguousarray(one)), rate, to)


def resample(waveform: Tensor, rate: int, to: int) -> Tensor:
    """(..., T) -> (..., ceil(T * to / rate)) by torchaudio's windowed sinc with its defaults.

    The ratio is exact for every usual rate; odd ones (44,099 Hz) are met to 6e-7, so that their
    filters stay small.

    Raises:
        UsageError: torchaudio is not installed.
    """
    if rate == to:
        return waveform
    ratio = Fraction(min(rate, to), max(rate, to)).limit_denominator(LARGEST)
    small, large = ratio.numerator, ratio.denominator
    return _resampler(*((small, large) if rate < to else (large, small)))(waveform)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # else no training could use them afterwards
def _resampler(rate: int, to: int) -> Callable[[Tensor], Tensor]:
    try:
        transforms = importlib.import_module("torchaudio.transforms")
    except (ImportError, OSError):
        raise UsageError(
            "another sample rate needs the package torchaudio: pip install 'zoo[audio]'"
        ) from None
    made: Callable[[Tensor], Tensor] = transforms.Resample(rate, to)
    return made
