"""Patch merging of a Swin transformer for volumes (arXiv 2201.01266), in the order of the weights.

MONAI 1.5 changed the order in which its "merging" takes the eight neighbours; the names and shapes
of the parameters stayed. Weights from before (VoCo, SuPreM, MONAI's own of BTCV) load there without
an error and give wrong features: they need `LegacyPatchMerging`.

Notation: B volumes, C channels, X, Y, Z places on the grid.
"""

from collections.abc import Mapping
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

__all__ = ["MERGING", "LegacyPatchMerging", "PatchMerging"]


class PatchMerging(nn.Module):
    """Eight neighbours of half the resolution side by side, normed, reduced to twice the width.

    The constructor is what MONAI's SwinTransformer calls; `offsets` (x, y, z) is the order.
    """

    offsets: ClassVar[tuple[tuple[int, ...], ...]] = tuple(product((0, 1), repeat=3))

    def __init__(
        self, dim: int, norm_layer: type[nn.LayerNorm] = nn.LayerNorm, spatial_dims: int = 3
    ) -> None:
        if spatial_dims != 3:
            raise ValueError(f"patch merging of volumes has 3 spatial axes, not {spatial_dims}")
        super().__init__()
        self.reduction = nn.Linear(8 * dim, 2 * dim, bias=False)
        self.norm = norm_layer(8 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y, Z, C) -> (B, X / 2, Y / 2, Z / 2, 2 C); an odd axis gets a plane of zeros."""
        odd = [size % 2 for size in x.shape[1:4]]
        if any(odd):
            x = pad(x, (0, 0, 0, odd[2], 0, odd[1], 0, odd[0]))
        x = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in self.offsets], dim=-1)
        return self.reduction(self.norm(x))


class LegacyPatchMerging(PatchMerging):
    """MONAI's before 1.5, a bug kept for its weights: two neighbours twice, two never."""

    offsets = (
        *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        *((1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)),
    )


MERGING: Mapping[str, type[PatchMerging]] = {"legacy": LegacyPatchMerging, "v2": PatchMerging}
