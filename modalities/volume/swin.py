"""Swin transformer for volumes: the encoder half of MONAI's SwinUNETR (arXiv 2201.01266).

It is the second version of that network, with a residual convolution block before each stage.
State dict and numerics are those of VoCo (arXiv 2410.09890).

Notation: B volumes, C channels, X, Y, Z voxels, F feature_size, N = X * Y * Z / 32**3 tokens,
D = 24 F.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from zoo.modalities.contracts import Batch, Features
from zoo.modalities.volume.merging import MERGING
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.modalities.volume.window_attention import use_window_attention
from zoo.modalities.volumes import CropEncoder

from zoo.errors import UsageError

__all__ = ["Swin3D", "Swin3DConfig", "monai_part"]

_STRIDE = 32  # voxels of a token along each axis
_INDEX = "relative_position_index"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swin3DConfig:
    """Everything that shapes the encoder, in MONAI's words; channels belong to `preprocess`."""

    feature_size: int = 48
    depths: tuple[int, int, int, int] = (2, 2, 2, 2)
    num_heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window_size: int = 7
    merging: Literal["legacy", "v2"] = "v2"  # see `merging`
    # Volumes that go through together; None: all. Smaller parts give the same numbers, because all
    # norms are per volume; in training each part is computed again on the way back.
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        for i, heads in enumerate(self.num_heads):
            if self.feature_size * 2**i % heads:
                raise ValueError(
                    f"feature_size {self.feature_size} x {2**i} must be a multiple of "
                    f"num_heads[{i}] = {heads}"
                )
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1, got {self.micro_batch}")


class Swin3D(CropEncoder):
    """Batches hold `volume` (B, C, X, Y, Z): any multiples of 32 voxels, but not 32 on each axis.

    Features are the levels of `pyramid`, averaged over the cells of the coarsest one and put side
    by side; `pooled` is the mean of that over cells, VoCo's embedding.
    """

    modality = "volume"
    config_class = Swin3DConfig
    preprocess_class = VolumePreprocessConfig
    preprocess: VolumePreprocess

    def __init__(self, config: Swin3DConfig, preprocess: VolumePreprocessConfig) -> None:
        super().__init__()
        width = config.feature_size
        self.config, self.dim = config, 24 * width
        self.in_channels = len(preprocess.sequences)
        self.preprocess = VolumePreprocess(preprocess)
        block = monai_part("blocks", "UnetrBasicBlock")
        with _NumbersOnCpu():
            self.swinViT = monai_part("nets.swin_unetr", "SwinTransformer")(
                in_chans=self.in_channels,
                embed_dim=width,
                patch_size=(2, 2, 2),
                window_size=(config.window_size,) * 3,
                depths=config.depths,
                num_heads=config.num_heads,
                downsample=MERGING[config.merging],
                use_v2=True,
            )
        use_window_attention(self.swinViT)
        for stage in "1234":  # in the order of their work, which layer-wise learning rates go by
            for name in (f"layers{stage}c", f"layers{stage}"):
                part = self.swinViT.get_submodule(name)
                delattr(self.swinViT, name)
                self.swinViT.add_module(name, part)
        shape = {"spatial_dims": 3, "kernel_size": 3, "stride": 1, "norm_name": "instance"}
        self.encoder1 = block(
            in_channels=self.in_channels, out_channels=width, res_block=True, **shape
        )
        for name, factor in (("encoder2", 1), ("encoder3", 2), ("encoder4", 4), ("encoder10", 16)):
            part = block(
                in_channels=factor * width, out_channels=factor * width, res_block=True, **shape
            )
            self.add_module(name, part)

    def pyramid(self, volume: Tensor) -> tuple[Tensor, ...]:
        """Five levels: F, F, 2F, 4F, 16F channels at strides 1, 2, 4, 8, 32.

        MONAI calls them enc0 to enc3 and dec4.
        """
        hidden = self.swinViT(volume)
        inputs = {
            "encoder1": volume,
            "encoder2": hidden[0],
            "encoder3": hidden[1],
            "encoder4": hidden[2],
            "encoder10": hidden[4],
        }
        return tuple(self.get_submodule(name)(x) for name, x in inputs.items())

    def forward(self, batch: Batch) -> Features:
        """`tokens` (B, N, D), `pooled` (B, D)."""
        volume = batch["volume"].to(self.encoder1.layer.conv1.conv.weight.dtype)
        grid = self._grid_of(volume)
        size = self.config.micro_batch or len(volume)
        parts = volume.split(size)
        if len(parts) > 1 and torch.is_grad_enabled():
            found = [checkpoint(self._tokens, part, use_reentrant=False) for part in parts]
        else:
            found = [self._tokens(part) for part in parts]
        tokens = torch.cat(found)
        return Features(tokens=tokens, pooled=tokens.mean(dim=1), grid=grid)

    def segmenter(self, out_channels: int) -> nn.Module:
        """MONAI's SwinUNETR with a copy of these weights; its decoder is new.

        Args:
            out_channels: classes, the background among them.
        """
        from zoo.modalities.volume.segmenter import swin_unetr

        network = swin_unetr(self.config, self.preprocess.config, out_channels)
        missing, unexpected = network.load_state_dict(self.state_dict(), strict=False)
        assert not unexpected
        assert all(name.startswith(("decoder", "out.")) for name in missing)
        return network.to(self.encoder1.layer.conv1.conv.weight)

    def adapt(self, state: dict[str, Tensor]) -> tuple[str, ...]:
        """One input channel serves several in equal parts; a table that can be computed is."""
        changed: list[str] = []
        channels = self.in_channels
        for name in (
            "swinViT.patch_embed.proj.weight",
            "encoder1.layer.conv1.conv.weight",
            "encoder1.layer.conv3.conv.weight",
        ):
            if name in state and state[name].shape[1] == 1 < channels:
                state[name] = state[name].repeat(1, channels, 1, 1, 1) / channels
                changed.append(name)
        for name, _ in self.named_buffers():
            if name.endswith(_INDEX) and name not in state:
                state[name] = _relative_positions(self.config.window_size)
                changed.append(name)
        return tuple(changed)

    def _tokens(self, volume: Tensor) -> Tensor:
        """(b, N, D): every level averaged over the cells of the coarsest."""
        grid = self._grid_of(volume)
        means = [
            level.unflatten(4, (grid[2], -1))
            .unflatten(3, (grid[1], -1))
            .unflatten(2, (grid[0], -1))
            .mean(dim=(3, 5, 7))
            for level in self.pyramid(volume)
        ]
        return torch.cat(means, dim=1).flatten(2).transpose(1, 2)

    def _grid_of(self, volume: Tensor) -> tuple[int, int, int]:
        channels, sizes = volume.shape[1], tuple(volume.shape[2:])
        grid = tuple(size // _STRIDE for size in sizes)
        is_whole = len(sizes) == 3 and all(size % _STRIDE == 0 for size in sizes)
        if channels != self.in_channels or not is_whole or max(grid) < 2:
            raise ValueError(
                f"volume is {tuple(volume.shape)}, the encoder takes (B, {self.in_channels},"
                " X, Y, Z) with multiples of 32 voxels and at least 64 on one axis"
            )
        return grid[0], grid[1], grid[2]


class _NumbersOnCpu(TorchFunctionMode):
    """Lets MONAI's constructor read the values of a `linspace` while it builds on meta."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever `func` gives
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def monai_part(module: str, name: str) -> Callable[..., Any]:
    """A class of `monai.networks`, imported only now: that takes seconds.

    Raises:
        UsageError: MONAI, or einops which its transformers need, is missing.
    """
    try:
        importlib.import_module("einops")
        found: ModuleType = importlib.import_module(f"monai.networks.{module}")
    except ImportError as error:
        raise UsageError(
            f"networks for volumes need monai and einops: pip install 'zoo[volume]' ({error})"
        ) from None
    part: Callable[..., Any] = getattr(found, name)
    return part


def _relative_positions(window: int) -> Tensor:
    """(window**3, window**3) rows of the bias table, one for each pair of places in a window."""
    places = torch.stack(torch.meshgrid(*[torch.arange(window)] * 3, indexing="ij")).flatten(1)
    distance = places[:, :, None] - places[:, None, :] + window - 1
    span = 2 * window - 1
    return (distance[0] * span + distance[1]) * span + distance[2]
