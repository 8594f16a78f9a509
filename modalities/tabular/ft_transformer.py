"""FT-Transformer: the supervised baseline of a fixed schema (arXiv 2106.11959).

Numerics are those of the package rtdl_revisiting_models: tokens in the order class, numbers,
categories; pre-norm blocks, the first without a norm before its attention; the last block asks with
the class token only; ReGLU.

Notation: B rows, N tokens, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from zoo.modalities.attention import attention
from zoo.modalities.tabular.numbers import Linear

__all__ = ["FTTransformer", "FTTransformerConfig"]

_MLP_RATIO = 4 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FTTransformerConfig:
    """Everything that shapes the network; `levels` are the sizes of the categories."""

    numbers: int
    levels: tuple[int, ...] = ()
    outputs: int = 1
    dim: int = 192
    depth: int = 3
    heads: int = 8


class _Categories(nn.Module):
    """A table for each column, and a bias."""

    def __init__(self, levels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, dim) for count in levels)
        self.bias = nn.Parameter(torch.empty(len(levels), dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, codes: Tensor) -> Tensor:
        """(B, F) -> (B, F, D)."""
        found = [table(codes[:, i]) for i, table in enumerate(self.tables)]
        return torch.stack(found, dim=1) + self.bias


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, *, first: bool) -> None:
        super().__init__()
        self.heads = heads
        hidden = int(dim * _MLP_RATIO)
        self.norm1 = nn.Identity() if first else nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, *, queries: int | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or of the first `queries` tokens only."""
        normed = self.norm1(x)
        q, k, v = self.q(normed[:, :queries]), self.k(normed), self.v(normed)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        x = x[:, :queries] + self.proj(attention(q, k, v).flatten(-2))
        passed, gate = self.fc1(self.norm2(x)).chunk(2, dim=-1)
        return x + self.fc2(passed * gate.relu())


class FTTransformer(nn.Module):
    """Numbers (B, F) and codes (B, G) of a fixed schema -> (B, outputs)."""

    def __init__(self, config: FTTransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.cls_token = nn.Parameter(torch.empty(dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.numbers = Linear(config.numbers, dim)
        self.categories = _Categories(config.levels, dim) if config.levels else None
        self.blocks = nn.ModuleList(
            _Block(dim, config.heads, first=i == 0) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.outputs)

    def tokens(self, numbers: Tensor, codes: Tensor | None = None) -> Tensor:
        """(B, N, D): class token, numbers, categories."""
        parts = [self.cls_token.expand(len(numbers), 1, -1), self.numbers(numbers)]
        if self.categories is not None and codes is not None:
            parts.append(self.categories(codes))
        return torch.cat(parts, dim=1)

    def forward(self, numbers: Tensor, codes: Tensor | None = None) -> Tensor:
        """(B, outputs)."""
        x = self.tokens(numbers, codes)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, queries=1)[:, 0]
        out: Tensor = self.head(self.norm(x).relu())
        return out
