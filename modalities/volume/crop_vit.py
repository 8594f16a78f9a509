"""The 3D vision transformer for volumes of any size, so that VoCo's crops go through it too.

Sin-cos positions count from the corner of what is given: a crop does not know where it was cut out.

Notation: B volumes, X, Y, Z voxels, N tokens, D width, K classes.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from zoo.modalities.contracts import Batch, Features, Tokens
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig, patchify
from zoo.modalities.volumes import CropEncoder, volume_positions

__all__ = ["CropViT3D", "TokenSegmenter"]


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

    def segmenter(self, out_channels: int) -> nn.Module:
        """A light decoder on a copy of these weights."""
        return TokenSegmenter(copy.deepcopy(self), out_channels)

    def grid_of(self, volume: Tensor) -> tuple[int, int, int]:
        """Tokens of a volume along X, Y, Z."""
        x, y, z = (size // self.config.patch_size for size in volume.shape[2:])
        return x, y, z


class TokenSegmenter(nn.Module):
    """Tokens and voxels at every second voxel, side by side, and what they say of all voxels."""

    def __init__(self, encoder: CropViT3D, out_channels: int, feature_size: int = 8) -> None:
        super().__init__()
        half, odd = divmod(encoder.config.patch_size, 2)
        if odd:
            raise ValueError(f"patch_size {encoder.config.patch_size} must be even to segment with")
        self.vit = encoder
        self.spread = nn.ConvTranspose3d(encoder.dim, feature_size, half, stride=half)
        self.fine = nn.Conv3d(1, feature_size, 4, stride=2, padding=1)
        self.norm = nn.InstanceNorm3d(2 * feature_size)
        self.out = nn.ConvTranspose3d(2 * feature_size, out_channels, 4, stride=2, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) -> (B, K, X, Y, Z)."""
        tokens = self.vit({"volume": volume}).tokens
        coarse = tokens.transpose(1, 2).unflatten(2, self.vit.grid_of(volume))
        both = torch.cat([self.spread(coarse), self.fine(volume)], dim=1)
        logits: Tensor = self.out(self.norm(both).relu())
        return logits
