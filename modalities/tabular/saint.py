"""SAINT: attention over the columns of a row, then over the rows of a batch (arXiv 2106.01342).

Numerics of the trunk are those of somepago/saint: f(norm(x)) + norm(x), GEGLU, tokens of a row
flattened for the row stage. A row's output depends on the other rows of its batch.

DEVIATION: a number is embedded as x * w + b, there by an MLP of each column; its own pretraining
(CutMix, mixup) is not here, `masked_cells` and `scarf` are.

Notation: B rows, N tokens of a row, D width.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import gelu
from zoo.modalities.attention import attention
from zoo.modalities.tabular.fixed import FixedEncoder
from zoo.modalities.tabular.schema import FixedConfig, FixedPreprocessConfig

__all__ = ["Saint", "SaintConfig", "SaintTrunk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaintConfig(FixedConfig):
    """Everything that shapes the encoder."""

    dim: int = 32
    depth: int = 6
    heads: int = 8
    column_width: int = 16  # of a head
    row_width: int = 64
    ratio: int = 4  # of the MLPs


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * width, bias=False)
        self.proj = nn.Linear(heads * width, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.proj(attention(q, k, v).flatten(-2))


class _Mlp(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        passed, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(passed * gelu(gate))


class _Stage(nn.Module):
    """Attention, then an MLP; both add to their normalised input."""

    def __init__(self, dim: int, heads: int, width: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads, width)
        self.mlp = _Mlp(dim, ratio)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.norm1(x)
        x = self.norm2(x + self.attn(x))
        return x + self.mlp(x)


class SaintTrunk(nn.Module):
    """(B, N, D) -> (B, N, D), `depth` times columns and rows."""

    def __init__(
        self,
        dim: int,
        tokens: int,
        *,
        depth: int = 6,
        heads: int = 8,
        column_width: int = 16,
        row_width: int = 64,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        wide = dim * tokens
        shapes = [(dim, column_width), (wide, row_width)] * depth
        self.blocks = nn.ModuleList(_Stage(size, heads, width, ratio) for size, width in shapes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        width = x.shape[-1]
        for columns, rows in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = columns(x)
            x = rows(x.flatten(1).unsqueeze(0)).squeeze(0).unflatten(-1, (-1, width))
        return x


class Saint(FixedEncoder):
    """Tokens of a fixed schema -> columns and rows in turn."""

    config_class = SaintConfig
    rows_mix = True

    def __init__(self, config: SaintConfig, preprocess: FixedPreprocessConfig) -> None:
        super().__init__(config, config.dim, preprocess)
        self.config = config
        self.stages = SaintTrunk(
            config.dim,
            1 + self.columns_in_all,
            depth=config.depth,
            heads=config.heads,
            column_width=config.column_width,
            row_width=config.row_width,
            ratio=config.ratio,
        )

    def trunk(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        mixed: Tensor = self.stages(x)
        return mixed
