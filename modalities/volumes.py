"""Encoders of volumes as objectives see them, and the positions that they share.

Notation: B volumes, C channels, S sequences, X, Y, Z voxels, V tokens of a sequence, D width.
"""

from typing import Protocol

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, GridEncoder, SampleEncoder
from zoo.modalities.positions import sincos_positions

__all__ = ["CropEncoder", "SequenceDecoder", "SequenceEncoder", "volume_positions"]


class CropEncoder(SampleEncoder):
    """Takes `volume` (B, C, X, Y, Z) of many sizes, so that crops go through it like whole ones.

    Features of a volume do not depend on the others of its batch: the encoder may divide it.
    """

    needs_words = "volumes of any size, such as crops"


class SequenceDecoder(Protocol):
    """What a pretraining left: makes up a sequence from what its encoder makes of the others."""

    def __call__(self, encoder: "SequenceEncoder", batch: Batch, missing: str) -> Tensor:
        """(B, V, P) values of the tokens of `missing`."""
        ...


class SequenceEncoder(GridEncoder):
    """Takes `volume` (B, S, X, Y, Z) and `present` (B, S), False where a sequence is missing.

    Tokens are S * V: all of the first sequence, then all of the second; the last three axes of
    `grid` divide a sequence into its V. `valid` is False at tokens of missing sequences.
    """

    needs_words = "tokens of one or several sequences on a grid of a volume"
    sequences: tuple[str, ...]
    decoder: SequenceDecoder | None = None  # where weights came with one


def volume_positions(dim: int, grid: tuple[int, int, int]) -> Tensor:
    """Sin-cos table (1, V, D) in the order of MONAI's channels: Y, X, Z instead of Z, Y, X."""
    z, y, x = sincos_positions(dim, grid).chunk(3, dim=-1)
    return torch.cat([y, x, z], dim=-1)
