"""A volume: one or several sequences on one grid, and where the grid lies in the patient.

The voxels may be in memory or still compressed: `read` takes any box out of either.

Notation: C sequences, X, Y, Z voxels along the axes, which point right, anterior and superior once
a volume is oriented (RAS).
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError

__all__ = [
    "ALL",
    "LABELS",
    "Box",
    "Sequence",
    "Volume",
    "Voxels",
    "check_affine",
    "is_thick",
    "know_modality",
    "plane_maxima",
]

LABELS = "seg"  # the sequence that holds classes instead of intensities
AIR = -500.0  # HU; only CT has voxels below, and a CT without any is hardly one
THICK = 4.0  # longest over shortest edge of a voxel that deserves a warning
Box = tuple[slice, slice, slice]
ALL: Box = (slice(None), slice(None), slice(None))


class Voxels(Protocol):
    """(X, Y, Z), sliced like an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(X, Y, Z)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what slicing gives."""
        ...

    def __getitem__(self, key: Box, /) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Sequence:
    """Stored numbers: an intensity (in HU where it is CT) is number * slope + intercept.

    `maxima` are the largest numbers of every plane across X, Y and Z, where they are known: they
    tell the foreground above any threshold without looking at the voxels.
    """

    voxels: Voxels
    slope: float = 1.0
    intercept: float = 0.0
    maxima: tuple[NDArray[Any], ...] | None = None

    def scaled(self, numbers: NDArray[Any], out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Intensities of some of the numbers, written to `out` of the same shape."""
        out[...] = numbers
        if self.slope != 1.0:
            out *= np.float32(self.slope)
        if self.intercept != 0.0:
            out += np.float32(self.intercept)
        return out

    def above(self, threshold: float) -> list[NDArray[np.bool_]]:
        """Which planes across X, Y and Z hold an intensity above the threshold."""
        planes = self.maxima
        if planes is None:
            planes = plane_maxima(self.voxels[ALL])
        return [p * self.slope + self.intercept > threshold for p in planes]


def plane_maxima(voxels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """The largest number of every plane across X, across Y and across Z."""
    flat = voxels.max(axis=2)
    return flat.max(axis=1), flat.max(axis=0), voxels.max(axis=(0, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Sequences on one grid.

    Attributes:
        sequences: by name, such as "ct", or "t1", "t1ce", "t2" and "flair"; all of one shape.
        affine: (4, 4) from voxel indices to mm, RAS+.
        modality: DICOM's code in small letters ("ct", "mr", "pt"), empty where nobody said it.
        notes: what reading found odd, by name.
    """

    sequences: Mapping[str, Sequence]
    affine: NDArray[np.float64]
    modality: str = ""
    notes: Mapping[str, object] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        x, y, z = next(iter(self.sequences.values())).voxels.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edges of a voxel along X, Y and Z, in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def read(self, names: Iterable[str] | None = None, box: Box = ALL) -> NDArray[np.float32]:
        """Intensities of a box; only the parts of compressed voxels that it needs are decoded.

        Args:
            names: of the sequences, in the order wanted; by default all that are no labels.
            box: the whole volume by default.

        Returns:
            (C, x, y, z).
        """
        wanted = [name for name in self.sequences if name != LABELS] if names is None else names
        found = [(self.sequences[name], self.sequences[name].voxels[box]) for name in wanted]
        out = np.empty((len(found), *found[0][1].shape), np.float32)
        for (sequence, numbers), channel in zip(found, out, strict=True):
            sequence.scaled(numbers, channel)
        return out


def check_affine(affine: NDArray[np.float64], name: str) -> None:
    """Refuses an affine that places no voxel; warns about very thick slices.

    Raises:
        DataError: it is not finite, or singular.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise DataError(f"{name}: its affine is not 4 x 4 finite numbers")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    if not spacing.min() > 0 or volume <= 1e-6 * np.prod(spacing):
        raise DataError(f"{name}: its affine is singular; repair the header's sform or qform")
    if spacing.min() < 1e-3 or spacing.max() > 1e3:
        edges = " x ".join(f"{edge:.3g}" for edge in spacing)
        raise DataError(f"{name}: voxels of {edges} mm; repair the header's spacing")


def is_thick(affine: NDArray[np.float64], name: str) -> bool:
    """Whether voxels are more than `THICK` times as long as they are wide; warns if so."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    ratio = spacing.max() / spacing.min()
    if ratio > THICK:
        warnings.warn(f"{name}: thick slices, voxels are {ratio:.1f}:1", stacklevel=4)
    return bool(ratio > THICK)


def know_modality(volume: Volume, name: str, expected: str = "") -> str:
    """The modality that somebody said, or "ct" where voxels below -500 HU show it, or `expected`.

    That somebody expects CT is no proof: MRI would go through its window without a word.

    Raises:
        DataError: nobody said it and nothing shows it, or it is a CT of unknown orientation.
    """
    modality = volume.modality
    if not modality:
        lowest = min(
            float(sequence.voxels[ALL].min()) * sequence.slope + sequence.intercept
            for label, sequence in volume.sequences.items()
            if label != LABELS
        )
        modality = "ct" if lowest < AIR else expected if expected != "ct" else ""
    if not modality:
        raise DataError(
            f"{name}: CT or MRI? nothing lies below {AIR:g} HU; say so by a sample's "
            '"modality", a name such as x.ct.nii.gz or x.t1.nii.gz, or in x.json'
        )
    if modality == "ct" and volume.notes.get("orientation") == "unknown":
        raise DataError(
            f"{name}: a CT of unknown orientation; give its header an sform, which says where its "
            "voxels lie (nibabel: image.set_sform(affine, 1))"
        )
    return modality
