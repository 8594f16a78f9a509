"""FT-Transformer: an encoder of one table, mostly trained with labels (arXiv 2106.11959).

Numerics are those of the package rtdl_revisiting_models: tokens in the order class, numbers,
categories; pre-norm blocks, the first without a norm before its attention; ReGLU. Its last block
asks with the class token only, which is what is pooled; here all tokens ask, since objectives want
them. Missing cells, which it does not know, are vectors of their own.

DEVIATION: no dropout of attention weights.

Notation: B rows, N tokens, D width.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from zoo.modalities.attention import attention
from zoo.modalities.contracts import Tokens
from zoo.modalities.tabular.fixed import FixedEncoder
from zoo.modalities.tabular.schema import FixedConfig, FixedPreprocessConfig

__all__ = ["FTTransformer", "FTTransformerConfig"]

_MLP_RATIO = 4 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FTTransformerConfig(FixedConfig):
    """Everything that shapes the encoder."""

    dim: int = 192
    depth: int = 3
    heads: int = 8
    dropout: float = 0.1  # inside the MLP

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")


class _Block(nn.Module):
    def __init__(self, config: FTTransformerConfig, *, first: bool) -> None:
        super().__init__()
        self.heads, dim = config.heads, config.dim
        hidden = int(dim * _MLP_RATIO)
        self.norm1 = nn.Identity() if first else nn.LayerNorm(dim)
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        normed = self.norm1(x)
        parts = (
            layer(normed).unflatten(-1, (self.heads, -1)) for layer in (self.q, self.k, self.v)
        )
        x = x + self.proj(attention(*parts).flatten(-2))
        passed, gate = self.fc1(self.norm2(x)).chunk(2, dim=-1)
        return x + self.fc2(self.dropout(passed * gate.relu()))


class FTTransformer(FixedEncoder):
    """Tokens of a fixed schema -> pre-norm blocks; the class token behind a norm is pooled."""

    config_class = FTTransformerConfig

    def __init__(self, config: FTTransformerConfig, preprocess: FixedPreprocessConfig) -> None:
        super().__init__(config, config.dim, preprocess)
        self.config = config
        self.blocks = nn.ModuleList(_Block(config, first=i == 0) for i in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)

    def trunk(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D), before the norm."""
        for block in self.blocks:
            x = block(x)
        return x

    def pool(self, tokens: Tokens) -> Tensor:
        """(B, D); the package's head is a ReLU and a linear layer on it."""
        pooled: Tensor = self.norm(tokens.x[:, 0])
        return pooled
