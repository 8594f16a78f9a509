"""Pixels as they are stored -> what an encoder computes with, on its device.

Notation: B images, C channels, S side.
"""

import torch
from torch import Tensor, nn
from zoo.modalities.vision.preprocess import VisionPreprocessConfig

__all__ = ["normalized", "register_statistics"]


def register_statistics(
    module: nn.Module, constants: VisionPreprocessConfig, device: torch.device
) -> None:
    """`mean` and `std` as (C, 1, 1), in no file: they belong to the preprocessing."""
    for name in ("mean", "std"):
        values = torch.tensor(getattr(constants, name), device=device).view(-1, 1, 1)
        module.register_buffer(name, values, persistent=False)


def normalized(image: Tensor, mean: Tensor, std: Tensor, *, size: int) -> Tensor:
    """(B, C, S, S): uint8 is raw, floating point is taken as already normalised.

    Raises:
        ValueError: the images are of another size or number of channels.
    """
    if image.shape[1:] != (len(mean), size, size):
        raise ValueError(
            f"image is {tuple(image.shape)}, the encoder takes (B, {len(mean)}, {size}, {size})"
        )
    return (image.float() / 255 - mean) / std if image.dtype == torch.uint8 else image
