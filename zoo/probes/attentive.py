"""Attentive probing: one learned query looks at all tokens (as in arXiv 2504.12880).

Notation: B samples, T prefix and N other tokens, D width, H heads, E = D / H, K classes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zoo.probes.heads import Head

__all__ = ["Attentive"]


class Attentive(Head):
    """Attention pooling, LayerNorm, linear layer."""

    def __init__(self, dim: int, classes: int, *, heads: int, prefix: int = 0) -> None:
        """Query normal(0.02).

        Args:
            dim: D.
            classes: K.
            heads: H.
            prefix: T tokens that are left out.
        """
        super().__init__()
        self.heads, self.prefix = heads, prefix
        self.query = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T + N, D) -> (B, K)."""
        return self.linear(self.norm(self.pool(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        """(B, T + N, D) -> (B, D)."""
        x = tokens[:, self.prefix :]
        query = self.query.expand(len(x), -1, -1)
        parts = (query, self.k(x), self.v(x))
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        return scaled_dot_product_attention(q, k, v).flatten(1)  # (B, H, 1, E) -> (B, D)
