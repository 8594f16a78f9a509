"""What objectives show to people: images side by side, and where crops of volumes lie.

Notation: B samples, H, W pixels, C channels, X, Y, Z voxels, K base crops, S side of a crop.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["share_pictures", "side_by_side", "slice_pictures"]

_CROP, _GRID = (255, 140, 0), (90, 90, 90)  # colours of lines
_WIDTH = 2  # voxels of the crop's outline


def side_by_side(images: Tensor) -> Tensor:
    """(B, H, W, C) -> (H + 2, B * (W + 2), C), each in a thin grey frame."""
    framed = pad(images, (0, 0, 1, 1, 1, 1), value=128)
    return torch.cat(framed.unbind(), dim=1)


def slice_pictures(volumes: Tensor, crops: Tensor, bases: Tensor, size: int) -> Tensor:
    """The plane through the middle of each crop, grey from its darkest to its brightest voxel.

    Args:
        volumes: (B, C, X, Y, Z), of which the first channel is shown.
        crops: (B, 3), where a crop of each begins.
        bases: (K, 3), where base crops begin.
        size: S.

    Returns:
        uint8 (B, Y, X, 3), as radiologists look at it: the patient's right on the left.
    """
    depths = (crops[:, 2] + size // 2).tolist()
    pairs = zip(volumes, depths, strict=True)
    planes = torch.stack([volume[0, :, :, depth] for volume, depth in pairs]).float()
    low, high = planes.amin((1, 2), keepdim=True), planes.amax((1, 2), keepdim=True)
    return _drawn((planes - low) / (high - low).clamp(min=1e-6), crops, bases, size)


def share_pictures(shares: Tensor, crops: Tensor, bases: Tensor, size: int) -> Tensor:
    """The same plane with each base crop as bright as the share (B, K) of the crop that is its."""
    x, y, _ = (bases.amax(dim=0) + size).tolist()
    levels = torch.zeros(len(shares), x, y, device=shares.device)
    depths = crops[:, 2] + size // 2
    for (x, y, z), share in zip(bases.tolist(), shares.unbind(dim=1), strict=True):
        is_cut = (depths >= z) & (depths < z + size)
        levels[:, x : x + size, y : y + size] += (share * is_cut)[:, None, None]
    return _drawn(levels, crops, bases, size)


def _drawn(levels: Tensor, crops: Tensor, bases: Tensor, size: int) -> Tensor:
    """(B, X, Y) in 0 ... 1 with the lines of the grid and the outlines of the crops."""
    grey = (levels.clamp(0, 1) * 255).round().byte()
    picture = grey.unsqueeze(-1).repeat(1, 1, 1, 3)
    line, outline = (levels.new_tensor(colour).byte() for colour in (_GRID, _CROP))
    for x, y, _ in bases.tolist():
        picture[:, x, :], picture[:, :, y] = line, line
    for one, (x, y, _) in zip(picture, crops.tolist(), strict=True):
        box = one[x : x + size, y : y + size]
        for edge in (slice(None, _WIDTH), slice(-_WIDTH, None)):
            box[edge], box[:, edge] = outline, outline
    return picture.flip(1, 2).transpose(1, 2)
