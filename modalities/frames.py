"""Encoders with a trained stem, whose outputs an objective may aim at.

Notation: B samples, N frames, P width of the stem, D width of the encoder.
"""

from abc import abstractmethod

from torch import Tensor
from zoo.modalities.contracts import Batch, SampleEncoder, Tokens

__all__ = ["FrameEncoder"]


class FrameEncoder(SampleEncoder):
    """Signal -> stem -> frames -> trunk. Before the trunk frames may be replaced, not left out.

    Batches hold `lengths` (B,), the frames of each sample, on the host.
    """

    needs_words = "frames of a trained stem"
    stem_dim: int  # P

    @abstractmethod
    def stem(self, batch: Batch) -> Tensor:
        """(B, N, P) of the signal; what lies behind a sample's last frame means nothing."""

    @abstractmethod
    def tokenize(self, frames: Tensor, lengths: Tensor) -> Tokens:
        """The stem's (B, N, P) -> `x` (B, N, D), `targets` (B, N, P); `valid` if lengths differ."""

    @abstractmethod
    def encode(self, tokens: Tokens) -> Tokens:
        """The trunk on all frames."""
