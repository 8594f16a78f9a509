"""MONAI's segmentation networks around the trunks of zoo's encoders.

Built from plain arguments, so that a MONAI bundle can name them: the order of patch merging is part
of the config and cannot get lost on the way.

Notation: B volumes, S sequences, V tokens of a sequence, D width.
"""

from torch import Tensor, nn
from zoo.modalities.attention import attention
from zoo.modalities.volume.merging import MERGING
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.swin import Swin3DConfig, monai_part
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig, patchify

from zoo.errors import UsageError

__all__ = ["UNETRTrunk", "swin_unetr", "vit_unetr"]

_SWIN_WIDTH = 12  # MONAI's SwinUNETR takes multiples of it
_UNETR_DEPTH = 12  # MONAI's decoder reads the hidden states 3, 6 and 9 of so many blocks
_UNETR_PATCH = 16  # and upsamples by so much


def swin_unetr(
    config: Swin3DConfig, preprocess: VolumePreprocessConfig, out_channels: int
) -> nn.Module:
    """MONAI's SwinUNETR (arXiv 2201.01266), version 2, with the patch merging of the config.

    Args:
        config: the encoder.
        preprocess: its constants, which name the sequences.
        out_channels: classes, the background among them.

    Raises:
        UsageError: MONAI is missing, or its decoder cannot have that width.
    """
    if config.feature_size % _SWIN_WIDTH:
        raise UsageError(
            f"MONAI's SwinUNETR needs a feature_size that is a multiple of {_SWIN_WIDTH}, this "
            f"encoder has {config.feature_size}"
        )
    network: nn.Module = monai_part("nets", "SwinUNETR")(
        in_channels=len(preprocess.sequences),
        out_channels=out_channels,
        feature_size=config.feature_size,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        downsample=MERGING[config.merging],
        use_v2=True,
    )
    return network


def vit_unetr(
    config: ViT3DConfig, preprocess: VolumePreprocessConfig, out_channels: int
) -> nn.Module:
    """MONAI's UNETR (arXiv 2103.10504) with `UNETRTrunk` in the place of its own transformer.

    Args:
        config: the encoder.
        preprocess: its constants, which name the sequences and the size of a volume.
        out_channels: classes, the background among them.

    Raises:
        UsageError: MONAI is missing, or its decoder is for patches of another size.
    """
    if config.patch_size != _UNETR_PATCH:
        raise UsageError(
            f"MONAI's UNETR is for patch_size {_UNETR_PATCH}, this encoder has {config.patch_size}"
        )
    network: nn.Module = monai_part("nets", "UNETR")(
        in_channels=len(preprocess.sequences),
        out_channels=out_channels,
        img_size=preprocess.size,
        hidden_size=config.dim,
        mlp_dim=int(config.dim * config.mlp_ratio),
        num_heads=config.heads,
        qkv_bias=True,
    )
    network.vit = UNETRTrunk(config, preprocess)
    return network


class UNETRTrunk(nn.Module):
    """All tokens of all sequences through the blocks; what comes out is their mean over sequences.

    As BM-MAE (arXiv 2505.00568) does it, without a class token. Names of parameters are those of
    `ViT3D`.
    """

    def __init__(self, config: ViT3DConfig, preprocess: VolumePreprocessConfig) -> None:
        super().__init__()
        self.config = config
        encoder = ViT3D(config, preprocess)
        self.patch_embed, self.blocks, self.norm = encoder.patch_embed, encoder.blocks, encoder.norm

    def forward(self, volume: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, S, X, Y, Z) -> (B, V, D) behind the final norm, and as many (B, V, D) as MONAI reads.

        An encoder of another depth than 12 has its blocks spread over the places that are read.
        """
        states = self.states(volume)
        spread = [states[i * len(states) // _UNETR_DEPTH] for i in range(_UNETR_DEPTH)]
        last = self.norm(states[-1])
        return last.mean(dim=1), [state.mean(dim=1) for state in spread]

    def states(self, volume: Tensor) -> list[Tensor]:
        """(B, S, V, D) behind each block."""
        x = self.patch_embed(patchify(volume, self.config.patch_size))
        shape, x = x.shape[1:3], x.flatten(1, 2)
        states = []
        for block in self.blocks:
            x = block(x, attention)
            states.append(x.unflatten(1, shape))
        return states
