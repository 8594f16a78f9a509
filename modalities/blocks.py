"""The pre-norm transformer block that encoders and decoders of grids share, and its attention.

timm has these parts too, and its names are kept (`attn.qkv`, `mlp.fc1`, ...) so that its
checkpoints fit. They are written out because importing timm costs several times more than loading
a model (benchmarks/speed/loading.py), and because attention must know packed batches.

Notation: B samples, N tokens, D width, H heads, E width of a head, F width inside the MLP.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

__all__ = ["Attend", "Attention", "Block", "Mlp"]

# q, k, v (B, N, H, E) -> (B, N, H, E). The encoder makes one for each batch: it alone knows whether
# tokens are packed or padded and how positions enter.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection, rows ordered q, k, v."""

    def __init__(self, dim: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, attend: Attend, first: int = 0) -> Tensor:
        """(B, N, D) -> (B, N - first, D): what the tokens from `first` on find."""
        return self.proj(self.mix(x, attend, first))

    def mix(self, x: Tensor, attend: Attend, first: int = 0) -> Tensor:
        """(B, N, D) -> (B, N - first, D): what the heads saw, before the projection."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return attend(q[:, first:], k, v).flatten(-2)

    def mix_at(self, asking: Tensor, x: Tensor, attend: Attend) -> Tensor:
        """(1, M, D): what `asking` (1, M, D), some of all tokens (B, N, D), saw of them."""
        dim, weight, bias = x.shape[-1], self.qkv.weight, self.qkv.bias
        no = bias is None
        q = linear(asking, weight[:dim], None if no else bias[:dim])
        both = linear(x, weight[dim:], None if no else bias[dim:])
        k, v = both.unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return attend(q.unflatten(-1, (self.heads, -1)), k, v).flatten(-2)


class Mlp(nn.Module):
    """Two layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, dim: int, heads: int, hidden: int, *, norm_eps: float, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, hidden)
        self.drop_path = drop_path

    def forward(self, x: Tensor, attend: Attend, first: int = 0) -> Tensor:
        """(B, N, D) -> (B, N - first, D): tokens before `first` are only looked at."""
        x = x[:, first:] + self._drop(self.attn(self.norm1(x), attend, first))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, x: Tensor) -> Tensor:
        """Stochastic depth (arXiv 1603.09382): drops the branch of whole samples in training."""
        if not self.training or self.drop_path == 0.0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.drop_path
        return x * keep / (1.0 - self.drop_path)
