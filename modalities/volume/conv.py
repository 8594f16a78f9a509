"""A small convolution network for volumes of any size: features of several scales for little work.

Notation: B volumes, C channels, X, Y, Z voxels, L levels, N places of the coarsest level, D width,
the sum of all levels', K classes.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d
from zoo.modalities.contracts import Batch, Features
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.modalities.volumes import CropEncoder

__all__ = ["ConvNet3D", "ConvNet3DConfig", "UNet3D"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNet3DConfig:
    """Everything that shapes the encoder; channels belong to `preprocess`."""

    widths: tuple[int, ...] = (16, 32, 64)  # of the levels, at strides 2, 4, 8 ...
    groups: int = 8  # of the group norms

    def __post_init__(self) -> None:
        if not self.widths or any(width % self.groups for width in self.widths):
            raise ValueError(f"widths {self.widths} must be multiples of groups = {self.groups}")


class ConvNet3D(CropEncoder):
    """Batches hold `volume` (B, C, X, Y, Z): any multiples of 2**L voxels.

    Features are all levels, averaged over the cells of the coarsest one and put side by side;
    `pooled` is the mean of that over cells.
    """

    modality = "volume"
    config_class = ConvNet3DConfig
    preprocess_class = VolumePreprocessConfig
    preprocess: VolumePreprocess

    def __init__(self, config: ConvNet3DConfig, preprocess: VolumePreprocessConfig) -> None:
        super().__init__()
        self.config, self.dim = config, sum(config.widths)
        self.in_channels = len(preprocess.sequences)
        self.preprocess = VolumePreprocess(preprocess)
        inputs = (self.in_channels, *config.widths[:-1])
        self.levels = nn.ModuleList(
            _convolution(few, many, config.groups, stride=2)
            for few, many in zip(inputs, config.widths, strict=True)
        )

    def pyramid(self, volume: Tensor) -> list[Tensor]:
        """`widths` channels at strides 2, 4, 8 ..."""
        found = [volume]
        for level in self.levels:
            found.append(level(found[-1]))
        return found[1:]

    def forward(self, batch: Batch) -> Features:
        """`tokens` (B, N, D), `pooled` (B, D)."""
        levels = self.pyramid(batch["volume"])
        x, y, z = levels[-1].shape[2:]
        cells = [adaptive_avg_pool3d(level, (x, y, z)) for level in levels]
        tokens = torch.cat(cells, dim=1).flatten(2).transpose(1, 2)
        return Features(tokens=tokens, pooled=tokens.mean(dim=1), grid=(x, y, z))

    def segmenter(self, out_channels: int) -> nn.Module:
        """A U-Net on a copy of these weights; its decoder is new.

        Args:
            out_channels: classes, the background among them.
        """
        return UNet3D(copy.deepcopy(self), out_channels)


class UNet3D(nn.Module):
    """From the coarsest level back to voxels, beside each finer one (arXiv 1606.06650)."""

    def __init__(self, encoder: ConvNet3D, out_channels: int) -> None:
        super().__init__()
        widths, groups = encoder.config.widths, encoder.config.groups
        self.encoder = encoder
        finer = (groups, *widths[:-1])  # channels at strides 1, 2, 4 ...
        beside = (encoder.in_channels, *widths[:-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, 2, stride=2)
            for coarse, fine in zip(widths, finer, strict=True)
        )
        self.merge = nn.ModuleList(
            _convolution(fine + skip, fine, groups)
            for fine, skip in zip(finer, beside, strict=True)
        )
        self.out = nn.Conv3d(groups, out_channels, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, K, X, Y, Z)."""
        *skips, x = volume, *self.encoder.pyramid(volume)
        for skip, up, merge in [*zip(skips, self.up, self.merge, strict=True)][::-1]:
            x = merge(torch.cat([up(x), skip], dim=1))
        logits: Tensor = self.out(x)
        return logits


def _convolution(inputs: int, outputs: int, groups: int, *, stride: int = 1) -> nn.Sequential:
    """Its norm is of each volume by itself."""
    convolution = nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(groups, outputs), nn.GELU())
