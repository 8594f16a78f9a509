"""Synthetic torsos: no scan of anybody, but volumes with the structure of an abdominal CT.

Eight organs, random smooth shapes at anatomically consistent places, lie between lungs, spine and
loops of bowel in a wall of muscle and fat; only the soft organs are labelled. Bodies differ in
size, shape and where they lie; scans in calibration, noise and in how far contrast agent has come,
so that intensity alone tells little of an organ.

Notation: X, Y, Z voxels along the axes to the right, to the front and upwards (RAS).
"""

import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from zoo.cli.shards.build import command as build_command
from zoo.data.shard.write import MANIFEST
from zoo.errors import UsageError

__all__ = ["AFFINE", "ORGANS", "SHAPE", "SPACING", "Organ", "Torso", "draw_torso", "write_torsos"]

SHAPE = (48, 48, 16)  # X, Y, Z
SPACING = (8.0, 6.0, 16.0)  # mm
AFFINE = np.diag([*SPACING, 1.0])
AIR, FAT, TISSUE, MUSCLE = -1000.0, -100.0, -30.0, 55.0  # HU
WALL, SKIN = (140.0, 92.0), (160.0, 110.0)  # mm: half axes of the abdominal wall and of the body

Field = NDArray[np.float64]
Place = tuple[float, float, float]  # mm from the middle of the body


@dataclass(frozen=True, slots=True, kw_only=True)
class Organ:
    """An ellipsoid before it is bent; one without an end goes through all slices."""

    name: str
    hu: float  # Hounsfield units
    contrast: float  # and how many more where contrast agent has come all the way
    centre: Place
    radii: Place


_ENDLESS = 1e6
LANDMARKS = (
    Organ(name="lungs", hu=-800, contrast=0, centre=(0, 0, 130), radii=(130, 85, 52)),
    Organ(name="spine", hu=330, contrast=0, centre=(0, -66, 0), radii=(25, 25, _ENDLESS)),
)
ORGANS = (
    Organ(name="liver", hu=50, contrast=60, centre=(72, 15, 45), radii=(66, 66, 58)),
    Organ(name="stomach", hu=15, contrast=20, centre=(-52, 42, 48), radii=(44, 36, 46)),
    Organ(name="spleen", hu=45, contrast=75, centre=(-98, -28, 52), radii=(32, 42, 42)),
    Organ(name="right kidney", hu=35, contrast=140, centre=(64, -48, -22), radii=(28, 28, 48)),
    Organ(name="left kidney", hu=35, contrast=140, centre=(-66, -48, -6), radii=(28, 28, 48)),
    Organ(name="pancreas", hu=40, contrast=60, centre=(-6, 8, 16), radii=(58, 17, 24)),
    Organ(name="bladder", hu=8, contrast=0, centre=(0, 36, -98), radii=(42, 34, 34)),
    Organ(name="aorta", hu=40, contrast=180, centre=(-10, -30, 0), radii=(15, 15, _ENDLESS)),
)


@dataclass(frozen=True, slots=True)
class Torso:
    """HU int16 (X, Y, Z), and classes uint8 (X, Y, Z): 0, or 1 + the number of an organ."""

    hu: NDArray[np.int16]
    classes: NDArray[np.uint8]


def draw_torso(rng: np.random.Generator) -> Torso:
    """One body in one scan."""
    grid = _grid(rng)
    hu = np.full(SHAPE, AIR)
    around = np.hypot(grid[0] / SKIN[0], grid[1] / SKIN[1]) + 0.04 * _smooth(rng, 4)
    _paint(hu, around, FAT)
    inside = np.hypot(grid[0] / WALL[0], grid[1] / WALL[1]) + 0.04 * _smooth(rng, 4)
    _paint(hu, inside, MUSCLE)
    _paint(hu, inside / 0.9, TISSUE)
    for _ in range(10):
        place = rng.normal((0, 35, -40), (55, 25, 40))
        loop = np.maximum(_distance(grid, place, rng.uniform(14, 26, 3), rng), inside / 0.95)
        _paint(hu, loop, rng.choice((-300, 20, 40)))
    phase, classes = rng.uniform(0.2, 1.0), np.zeros(SHAPE, np.uint8)
    for number, organ in enumerate((*ORGANS, *LANDMARKS), start=1):
        place = np.array(organ.centre) + rng.normal(0, 7, 3)
        radii = np.array(organ.radii) * np.exp(rng.normal(0, 0.1, 3))
        distance = np.maximum(_distance(grid, place, radii, rng), inside / 0.98)
        _paint(hu, distance, organ.hu + phase * organ.contrast + rng.normal(0, 30))
        classes[distance < 1] = number if number <= len(ORGANS) else 0
    hu += rng.uniform(-60, 60)
    hu += rng.uniform(30, 60) * rng.standard_normal(SHAPE) + 15 * _smooth(rng, 12)
    return Torso(hu.round().astype(np.int16), classes)


def write_torsos(folder: Path, bodies: Mapping[str, int]) -> dict[str, Path]:
    """Writes NIfTI files, and with `zoo shards build` the shards of every split.

    Args:
        folder: gets `nifti/SPLIT` and `SPLIT`: `train` (scans alone), `labelled` and `test`.
        bodies: how many of each split.

    Returns:
        The folder of each split's shards; complete ones are left as they are.
    """
    folders = {}
    for number, (split, count) in enumerate(bodies.items()):
        folders[split] = folder / split
        if not (folders[split] / MANIFEST).exists():
            shutil.rmtree(folders[split], ignore_errors=True)
            files = folder / "nifti" / split
            _write_nifti(files, number, count, labelled=split != "train")
            words = [str(files), str(folders[split]), "--modality", "volume", "--workers", "0"]
            build_command.main([*words, "--quiet"], standalone_mode=False)
    return folders


def _write_nifti(folder: Path, split: int, count: int, *, labelled: bool) -> None:
    try:
        nibabel = importlib.import_module("nibabel")
    except ImportError:
        raise UsageError("NIfTI needs the package nibabel: pip install 'zoo[volume]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        torso = draw_torso(np.random.default_rng((split, index)))
        parts = {"ct": torso.hu, "seg": torso.classes} if labelled else {"ct": torso.hu}
        for name, voxels in parts.items():
            path = folder / f"{index:04d}.{name}.nii.gz"
            nibabel.Nifti1Image(voxels, AFFINE).to_filename(path)


def _grid(rng: np.random.Generator) -> Field:
    """(3, X, Y, Z): mm from the middle of a body that is larger or smaller, and lies off centre."""
    lines = [
        (np.arange(size) - (size - 1) / 2) * edge for size, edge in zip(SHAPE, SPACING, strict=True)
    ]
    grid = np.stack(np.meshgrid(*lines, indexing="ij"))
    shift, scale = rng.normal(0, (6, 5, 8)), np.exp(rng.normal(0, 0.05, 3))
    moved: Field = (grid - shift[:, None, None, None]) / scale[:, None, None, None]
    return moved


def _smooth(rng: np.random.Generator, waves: int) -> Field:
    """(X, Y, Z): noise of deviation about 1 that changes over some 1 / waves of the volume."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, waves, waves, waves)))
    field: Field = interpolate(coarse, SHAPE, mode="trilinear", align_corners=True)[0, 0].numpy()
    return 1.7 * field  # interpolation flattens it


def _distance(
    grid: Field, place: NDArray[np.float64], radii: NDArray[np.float64], rng: np.random.Generator
) -> Field:
    """(X, Y, Z): below 1 inside an ellipsoid whose surface bulges."""
    away = (grid - place[:, None, None, None]) / radii[:, None, None, None]
    distance: Field = np.sqrt(np.square(away).sum(axis=0)) + 0.08 * _smooth(rng, 6)
    return distance


def _paint(hu: Field, distance: Field, value: float) -> None:
    """In place; where a surface goes through a voxel, its intensity lies between both sides'."""
    share = np.clip((1 - distance) * 5 + 0.5, 0, 1)
    hu += share * (value - hu)
