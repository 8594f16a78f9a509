"""What reading a file gives, before anybody has looked at whether it makes sense."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scan"]


@dataclass(frozen=True, slots=True)
class Scan:
    """Numbers (X, Y, Z) or (X, Y, Z, n), of which intensity = number * slope + intercept.

    `affine` (4, 4) leads from voxel indices to mm, RAS+.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
    modality: str = ""
    notes: Mapping[str, object] = field(default_factory=dict)
