"""Fixed sin-cos positions on a grid of any number of axes, and their resizing.

Source: facebookresearch/mae (arXiv 2111.06377). For two axes the first half of the channels encodes
the column, the second half the row; each part is [sin | cos] in blocks, computed in float64.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["resize_positions", "sincos_positions"]


def sincos_positions(dim: int, grid: tuple[int, ...], *, prefix: int = 0) -> Tensor:
    """Table (1, prefix + N, dim) for N = prod(grid) tokens, row-major; prefix rows are zero.

    Args:
        dim: channels, a multiple of 2 x the number of axes.
        grid: tokens along each axis, slowest first.
        prefix: tokens in front that have no place.

    Raises:
        ValueError: `dim` does not divide evenly over the axes.
    """
    axes = len(grid)
    if dim % (2 * axes):
        raise ValueError(
            f"sin-cos positions on {axes} axes need a multiple of {2 * axes} channels, not {dim}"
        )
    frequencies = 10_000.0 ** -(np.arange(dim // (2 * axes)) / (dim / (2 * axes)))
    places = np.indices(grid).reshape(axes, -1)[::-1]  # fastest axis first
    angles = places[:, :, None] * frequencies  # (K, N, dim / 2K)
    parts = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    table = np.concatenate([*parts], axis=-1)
    table = np.concatenate([np.zeros((prefix, dim)), table])
    return torch.from_numpy(table.astype(np.float32)).unsqueeze(0)


def resize_positions(
    table: Tensor, size: tuple[int, int], *, prefix: int, antialias: bool = False
) -> Tensor:
    """A position table (1, prefix + N, D) of a square grid for another 2-D grid.

    Bicubic, align_corners False, no antialias, as facebookresearch/mae does it; timm's own
    resampler antialiases and differs by up to 0.19. Prefix rows stay as they are.
    """
    head, body = table[:, :prefix], table[:, prefix:]
    side = math.isqrt(body.shape[1])
    if side * side != body.shape[1]:
        raise ValueError(f"cannot resize positions of {body.shape[1]} tokens: not a square grid")
    image = body.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = interpolate(image.float(), size=size, mode="bicubic", antialias=antialias)
    body = image.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([head, body], dim=1)
