"""What happens to a volume between reading and the encoder.

Values are those of MONAI's transforms of the same purpose, which are named; importing MONAI costs
seconds in every process that loads data, so that only `resample` reaches for it, where it must.
"""

import importlib
import warnings
from collections.abc import Sequence as Several
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate, pad
from zoo.modalities.volume.volume import ALL, LABELS, Box, Sequence, Volume

from zoo.errors import UsageError

__all__ = ["centre_box", "foreground_box", "orient", "pad_to", "resize", "standardise", "window"]


def orient(volume: Volume) -> Volume:
    """Axes permuted and flipped until they point right, anterior, superior (`Orientation`)."""
    directions = volume.affine[:3, :3] / np.array(volume.spacing)
    if (directions.argmax(axis=0) == range(3)).all() and (directions.diagonal() > 0.9).all():
        return volume
    try:
        orientations = importlib.import_module("nibabel.orientations")
    except ImportError:
        raise UsageError("orienting needs the package nibabel: pip install 'zoo[volume]'") from None
    way = orientations.io_orientation(volume.affine)
    if (way == [(0, 1), (1, 1), (2, 1)]).all():
        return volume
    affine = volume.affine @ orientations.inv_ornt_aff(way, volume.shape)
    sequences = {
        label: Sequence(_turned(sequence.voxels[ALL], way), sequence.slope, sequence.intercept)
        for label, sequence in volume.sequences.items()
    }
    return replace(volume, sequences=sequences, affine=affine)


def _turned(voxels: NDArray[np.generic], way: NDArray[np.float64]) -> NDArray[np.generic]:
    """Row i of `way`: which axis the old axis i becomes, and 1 or -1."""
    flips = tuple(slice(None, None, int(sign)) for sign in way[:, 1])
    return voxels[flips].transpose(np.argsort(way[:, 0]))


def foreground_box(volume: Volume, threshold: float) -> Box:
    """The smallest box around all intensities above a threshold (`CropForeground`).

    All of the volume, with a warning, where there are none. Labels do not count.
    """
    planes = [
        sequence.above(threshold) for label, sequence in volume.sequences.items() if label != LABELS
    ]
    lines = [np.flatnonzero(np.any(axis, axis=0)) for axis in zip(*planes, strict=True)]
    if not all(len(line) for line in lines):
        warnings.warn(f"a volume without any intensity above {threshold:g}", stacklevel=2)
        return tuple(slice(0, size) for size in volume.shape)  # type: ignore[return-value]
    x, y, z = (slice(int(line[0]), int(line[-1]) + 1) for line in lines)
    return x, y, z


def centre_box(box: Box, size: Several[int]) -> Box:
    """The middle of a box, no longer than `size` along any axis (`CenterSpatialCrop`)."""
    x, y, z = (_middle(line, length) for line, length in zip(box, size, strict=True))
    return x, y, z


def _middle(line: slice, length: int) -> slice:
    whole = line.stop - line.start
    start = line.start + max(0, whole // 2 - length // 2)
    return slice(start, min(start + length, line.stop))


def window(values: Tensor, low: float, high: float) -> Tensor:
    """Values from low ... high to 0 ... 1, clipped (`ScaleIntensityRange`)."""
    return values.sub(low).div_(high - low).clamp_(0.0, 1.0)


def standardise(values: Tensor) -> Tensor:
    """(C, x, y, z): z-score of what is not zero, each sequence by itself (`NormalizeIntensity`)."""
    values = values.clone()
    for channel in values:
        inside = channel != 0
        if inside.any():
            found = channel[inside]
            spread = found.std(correction=0)
            channel[inside] = (found - found.mean()) / (spread if spread > 0 else 1.0)
    return values


def pad_to(values: Tensor, size: Several[int]) -> Tensor:
    """(C, x, y, z) with zeros on both sides until it is as large as `size` (`SpatialPad`)."""
    missing = [max(0, want - have) for want, have in zip(size, values.shape[1:], strict=True)]
    sides = [side for lack in reversed(missing) for side in (lack // 2, lack - lack // 2)]
    return pad(values, sides) if any(sides) else values


def resize(
    values: Tensor, size: Several[int], mode: Literal["trilinear", "nearest"] = "trilinear"
) -> Tensor:
    """(C, x, y, z) -> (C, *size), trilinear with aligned corners by default (`Resize`)."""
    if tuple(values.shape[1:]) == tuple(size):
        return values
    corners = True if mode == "trilinear" else None
    return interpolate(values[None], size=list(size), mode=mode, align_corners=corners)[0]
