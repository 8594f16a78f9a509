"""Crops of volumes: a grid of base crops, random ones, how they overlap, and cutting them out.

Task and numbers are those of VoCo (arXiv 2410.09890). What is drawn for a sample are a few integers
a crop; voxels are copied once, when the crops of a batch go into the encoder.

Notation: X, Y, Z voxels, R random crops, K base crops, M = R + K crops of a volume, S side of a
crop.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch

from zoo.errors import UsageError

__all__ = ["CropAugment", "base_starts", "cut", "draw_crops", "overlaps", "random_starts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropAugment:
    """Chances, for each crop by itself."""

    flip: float = 0.2  # of a mirror image along each axis
    rotate: float = 0.2  # by 90, 180 or 270 degrees in the plane of X and Y
    shift: float = 0.5  # of all intensities
    shift_range: float = 0.1  # at most, either way


def base_starts(shape: tuple[int, ...], size: int) -> Tensor:
    """(K, 3) first voxels of the crops that divide a volume, the last axis fastest.

    Raises:
        UsageError: the volume is no grid of at least two crops.
    """
    if any(length % size for length in shape) or max(shape) == size:
        raise UsageError(
            f"volumes of {' x '.join(map(str, shape))} voxels cannot be divided into crops of "
            f"{size}: set preprocess.size to multiples of objective.crop_size"
        )
    return torch.cartesian_prod(*[torch.arange(0, length, size) for length in shape])


def random_starts(
    shape: tuple[int, ...], size: int, count: int, generator: torch.Generator
) -> Tensor:
    """(count, 3), uniform; as in the reference the last possible place is never taken."""
    return torch.stack(
        [torch.randint(max(1, length - size), (count,), generator=generator) for length in shape],
        dim=1,
    )


def overlaps(starts: Tensor, bases: Tensor, size: int) -> Tensor:
    """Which share of each crop (R, 3) lies in each base crop (K, 3): (R, K) float64, rows sum to 1.

    The product over axes of what they have in common, by the volume of a crop. With crops as deep
    as the volume these are the areas of the reference.
    """
    common = (size - (starts.unsqueeze(1) - bases).abs()).clamp(min=0)
    return common.prod(dim=-1).double() / size**3


def draw_crops(
    starts: Tensor, augment: CropAugment, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws how each crop at `starts` (M, 3) is turned and shifted.

    Returns:
        (M, 7) int64: where it begins, which axes are mirrored, and whether X and Y then change
        places; together these are all mirror images and quarter turns. And (M,) shifts.
    """
    count = len(starts)
    chance = torch.rand(6, count, generator=generator)
    flips = chance[:3] < augment.flip
    quarters = torch.randint(1, 4, (count,), generator=generator) * (chance[3] < augment.rotate)
    # A turn by 90 degrees mirrors Y, then swaps; by 270 it mirrors X, then swaps; by 180 both.
    flips[0] ^= quarters >= 2
    flips[1] ^= (quarters == 1) | (quarters == 2)
    crops = torch.cat([starts, flips.T, (quarters % 2).unsqueeze(1)], dim=1)
    shifts = (2 * chance[4] - 1) * augment.shift_range
    return crops, shifts * (chance[5] < augment.shift)


def cut(batch: Batch, size: int) -> Tensor:
    """Every crop of a batch, turned and shifted.

    Args:
        batch: `volume` (B, C, X, Y, Z), `crops` (B, M, 7) and `shifts` (B, M), see `draw_crops`.
        size: S.

    Returns:
        (B * M, C, S, S, S).
    """
    volumes, crops, shifts = batch["volume"], batch["crops"], batch["shifts"]
    if crops.is_meta:  # FLOPs are counted, which are the same for any crop
        crops = torch.zeros_like(crops, device="cpu")
    found = volumes.new_empty(*crops.shape[:2], volumes.shape[1], size, size, size)
    for number, rows in enumerate(crops.tolist()):
        for place, (x, y, z, *flips, swap) in enumerate(rows):
            piece = volumes[number, :, x : x + size, y : y + size, z : z + size]
            if any(flips):
                piece = piece.flip([axis for axis, flip in enumerate(flips, 1) if flip])
            if swap:
                piece = piece.transpose(1, 2)
            torch.add(piece, shifts[number, place], out=found[number, place])
    return found.flatten(0, 1)
