"""Blocks of hidden patches, and of corrupted pixels, drawn until they cover a share of an image."""

import math

import torch
from torch import Tensor

__all__ = ["block_mask", "group_mask", "marked"]

_ASPECT = 0.3  # of a block's sides, and its inverse
_SMALLEST = 4  # patches of a block
_TRIES = 10  # blocks in a row that hide nothing new, after which a mask is as good as it gets


def block_mask(grid: tuple[int, int], share: float, generator: torch.Generator) -> Tensor:
    """(rows, columns) True at about `share` of the patches: BEiT's blocks (arXiv 2106.08254).

    Areas are uniform between 4 patches and what is left to hide, aspects log-uniform between 0.3
    and 1 / 0.3.
    """
    rows, columns = grid
    mask = torch.zeros(grid, dtype=torch.bool)
    wanted, tries = round(share * rows * columns), 0
    while (left := wanted - int(mask.sum())) > 0 and tries < _TRIES:
        size, shape, y, x = torch.rand(4, generator=generator).tolist()
        area = min(left, _SMALLEST) + size * (left - min(left, _SMALLEST))
        aspect = math.exp((2 * shape - 1) * -math.log(_ASPECT))
        height = min(rows, max(1, round(math.sqrt(area * aspect))))
        width = min(columns, max(1, round(math.sqrt(area / aspect))))
        top, left_edge = int(y * (rows - height + 1)), int(x * (columns - width + 1))
        block = mask[top : top + height, left_edge : left_edge + width]
        tries = tries + 1 if block.all() else 0
        block.fill_(True)
    return mask


def group_mask(
    side: int, align: int, share: tuple[float, float], largest: float, generator: torch.Generator
) -> Tensor:
    """(side, side) True at corrupted pixels: group masked model learning (arXiv 2104.03602).

    Blocks begin at multiples of `align` and have sides below `largest` of the image, rounded to
    multiples (ties to even, 0 too), until they cover a share that is uniform in `share`.
    """
    low, high = share
    wanted = (low + float(torch.rand((), generator=generator)) * (high - low)) * side * side
    mask = torch.zeros(side, side, dtype=torch.bool)
    most = max(align + 1, int(largest * side))
    while mask.sum() < wanted:
        corner = torch.randint(max(1, side - align), (2,), generator=generator) // align * align
        sides = torch.randint(align, most, (2,), generator=generator)
        blocks = []
        for begin, length in zip(corner.tolist(), sides.tolist(), strict=True):
            length = round(min(length, side - begin) / align) * align
            blocks.append((begin, length))
        (top, height), (left, width) = blocks
        mask |= marked(torch.tensor([[top, left, height, width]]), side)
    return mask


def marked(blocks: Tensor, side: int) -> Tensor:
    """Blocks (M, 4) as top, left, height, width -> (side, side) True inside any of them."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    for top, left, height, width in blocks.tolist():
        mask[top : top + height, left : left + width] = True
    return mask
