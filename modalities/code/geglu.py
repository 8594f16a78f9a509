"""The gated MLP of text encoders: GeGLU (arXiv 2002.05202), first half activated.

Notation: B samples, N tokens, D width, F width of each branch.
"""

from torch import Tensor, nn
from torch.nn.functional import gelu

__all__ = ["GatedMlp"]


class GatedMlp(nn.Module):
    """fc2(gelu(a) * b) with [a, b] = fc1(x); fc1 has no bias."""

    def __init__(self, dim: int, hidden: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        active, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.dropout(gelu(active) * gate))
