"""The 3D vision transformer for volumes of any size, so that crops go through it too.

Sin-cos positions count from the corner of what is given: a crop does not know where it was cut out.

Notation: B volumes, X, Y, Z voxels, N tokens, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig, patchify
from zoo.modalities.volumes import CropEncoder, volume_positions

__all__ = ["CropViT3D"]


class CropViT3D(ViT3D, CropEncoder):
    """Batches hold `volume` (B, 1, X, Y, Z): any multiples of the patch size."""

    def __init__(self, config: ViT3DConfig, preprocess: VolumePreprocessConfig) -> None:
        super().__init__(config, preprocess)
        if len(self.sequences) > 1:
            raise ValueError(f"crops are of one sequence, and there are {len(self.sequences)}")

    def tokenize(self, batch: Batch) -> Tokens:
        """`x` (B, N, D) with positions, `targets` (B, N, P) voxels."""
        volume, patch = batch["volume"], self.config.patch_size
        grid = self.grid_of(volume)
        patches = patchify(volume, patch).flatten(1, 2)
        [one] = self.patch_embed.values()
        assert isinstance(one, nn.Conv3d)
        x = linear(patches.to(one.weight.dtype), one.weight.flatten(1), one.bias)
        places = volume_positions(self.dim, grid).to(x)
        coords = torch.cartesian_prod(*[torch.arange(size, device=x.device) for size in grid])
        return Tokens(x=x + places, coords=coords, targets=patches)

    def forward(self, batch: Batch) -> Features:
        """`tokens` (B, N, D), `pooled` (B, D)."""
        tokens = self.encode(self.tokenize(batch))
        return Features(
            tokens=tokens.x[:, tokens.prefix :],
            pooled=self.pool(tokens),
            grid=self.grid_of(batch["volume"]),
        )

    def grid_of(self, volume: Tensor) -> tuple[int, int, int]:
        """Tokens of a volume along X, Y, Z."""
        x, y, z = (size // self.config.patch_size for size in volume.shape[2:])
        return x, y, z
