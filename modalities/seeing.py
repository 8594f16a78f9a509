"""Which tokens see which, and how clearly: windows, causality, ALiBi (arXiv 2108.12409).

Everything here depends on the distance of two tokens of a sequence alone, so one mask serves
sequences of all lengths.

Notation: N tokens, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Seeing", "alibi_slopes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeing:
    """What token i sees of token j."""

    slopes: Tensor | None = None  # (H,): -slope * |i - j| is added to the score
    window: int | None = None  # only |i - j| <= window
    causal: bool = False  # only j <= i

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for what gives equal masks."""
        return (id(self.slopes), self.window, self.causal)

    def hides(self, n: int) -> bool:
        """Whether n tokens need a mask; causality alone does not, where all of them are real."""
        return self.slopes is not None or (self.window is not None and n > self.window + 1)

    def mask(self, n: int, like: Tensor) -> Tensor | None:
        """Broadcasts to (B, H, N, N): True where seen, or what is added to scores."""
        if not self.hides(n) and not self.causal:
            return None
        positions = torch.arange(n, device=like.device)
        offset = positions[:, None] - positions[None, :]
        seen = torch.ones_like(offset, dtype=torch.bool)
        if self.causal:
            seen &= offset >= 0
        if self.window is not None:
            seen &= offset.abs() <= self.window
        if self.slopes is None:
            return seen[None, None]
        bias = -self.slopes.view(1, -1, 1, 1) * offset.abs()
        return bias.masked_fill(~seen, float("-inf")).to(like.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """(H,) slopes of ALiBi (arXiv 2108.12409); head counts that are no power of two included."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    if power < heads:
        finer = [2.0 ** (-4 * i / power) for i in range(1, 2 * power + 1)]
        slopes += finer[0::2][: heads - power]
    return torch.tensor(slopes)
