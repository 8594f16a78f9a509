"""A small convolution network for volumes of any size: features of several scales for little work.

Notation: B volumes, C channels, X, Y, Z voxels, L levels, N places of the coarsest level, D width,
the sum of all levels', K classes.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise

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
            _level(few, many, config.groups)
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
    """From the coarsest level to the finest, each beside what comes from below (1606.06650)."""

    def __init__(self, encoder: ConvNet3D, out_channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        widths = encoder.config.widths
        steps = [*pairwise(widths)]
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, 2, stride=2) for fine, coarse in steps
        )
        self.merge = nn.ModuleList(_merge(2 * fine, fine) for fine, _ in steps)
        self.out = nn.ConvTranspose3d(widths[0], out_channels, 4, stride=2, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, K, X, Y, Z)."""
        *finer, x = self.encoder.pyramid(volume)
        for level, up, merge in [*zip(finer, self.up, self.merge, strict=True)][::-1]:
            x = merge(torch.cat([up(x), level], dim=1))
        logits: Tensor = self.out(x)
        return logits


def _level(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """Its norm is of each volume by itself."""
    convolution = nn.Conv3d(inputs, outputs, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(groups, outputs), nn.GELU())


def _merge(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, outputs, 3, padding=1)
    return nn.Sequential(convolution, nn.InstanceNorm3d(outputs), nn.LeakyReLU(0.1))
