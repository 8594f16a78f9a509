"""AudioMAE's decoder block: local attention in shifted windows (arXiv 2207.06405, 2111.09883).

Numbers match facebookresearch/AudioMAE, whose block is timm's Swin V2 "CR": cosine attention with a
learned temperature, a bias that a small network makes of log-spaced offsets, and norms behind the
branches. Every odd block shifts its windows along the first axis (time) only, so that what the roll
brings together from both ends must not see each other, while the second axis needs no mask.

Notation: B samples, N = R * C tokens of a grid, D width, H heads, E width of a head, S side of a
window, A = S * S tokens of a window, W windows of a sample.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize, relu, scaled_dot_product_attention
from zoo.modalities.blocks import Mlp

__all__ = ["SwinBlock"]

WINDOW = 4
_HIDDEN, _DROPOUT = 384, 0.1  # of the network that makes the bias
_UNSEEN = -100.0
_TINY = 1e-6


class OffsetBias(nn.Module):
    """Two layers from an offset between two tokens to what is added to their attention."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, _HIDDEN)
        self.fc2 = nn.Linear(_HIDDEN, heads)

    def forward(self, offsets: Tensor) -> Tensor:
        """(A, A, 2) -> (H, A, A)."""
        hidden = dropout(relu(self.fc1(offsets)), _DROPOUT, self.training)
        return self.fc2(hidden).permute(2, 0, 1)


class WindowAttention(nn.Module):
    """Cosine attention inside windows."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} must be a multiple of heads {heads}")
        self.heads = heads
        self.tau = nn.Parameter(torch.ones(heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.meta_mlp = OffsetBias(heads)
        places = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
        offsets = (places[:, None] - places[None, :]).float()
        offsets = offsets.sign() * offsets.abs().log1p()
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor

    def forward(self, x: Tensor, unseen: Tensor | None) -> Tensor:
        """(B, W, A, D) and what hides pairs of tokens (W, 1, A, A) -> (B, W, A, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(2, 4).unbind(3)
        q = normalize(q, dim=-1, eps=_TINY) / self.tau.clamp(min=0.01)[:, None, None]
        k = normalize(k, dim=-1, eps=_TINY)
        bias = self.meta_mlp(self.offsets)
        bias = bias if unseen is None else bias + unseen
        attended = scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.proj(attended.transpose(2, 3).flatten(-2))


class SwinBlock(nn.Module):
    """x + norm(attention(x)), then x + norm(mlp(x)), on all tokens of a grid."""

    def __init__(
        self, dim: int, heads: int, hidden: int, *, grid: tuple[int, ...], shifted: bool, eps: float
    ) -> None:
        super().__init__()
        if len(grid) != 2 or any(side % WINDOW for side in grid):
            raise ValueError(
                f"the swin decoder needs a 2-D grid whose sides are multiples of {WINDOW}, "
                f"the encoder's is {grid}"
            )
        self.grid = grid
        self.shift = WINDOW // 2 if shifted else 0
        self.attn = WindowAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.register_buffer("unseen", self._unseen() if shifted else None, persistent=False)
        self.unseen: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) in the grid's own order -> (B, N, D)."""
        x = x + self.norm1(self._attend(x))
        return x + self.norm2(self.mlp(x))

    def _attend(self, x: Tensor) -> Tensor:
        image = x.unflatten(1, self.grid).roll(-self.shift, dims=1)  # (B, R, C, D)
        windows = _to_windows(image)
        image = _from_windows(self.attn(windows, self.unseen), self.grid)
        return image.roll(self.shift, dims=1).flatten(1, 2)

    def _unseen(self) -> Tensor:
        """(W, 1, A, A): large and negative where two rows met only through the roll."""
        rows, columns = self.grid
        band = torch.zeros(rows)
        band[rows - WINDOW :] = 1
        band[rows - self.shift :] = 2
        bands = _to_windows(band.view(1, rows, 1, 1).expand(1, rows, columns, 1))[0, ..., 0]
        return ((bands[:, :, None] != bands[:, None, :]) * _UNSEEN).unsqueeze(1)


def _to_windows(image: Tensor) -> Tensor:
    """(B, R, C, D) -> (B, W, A, D), windows row-major."""
    b, rows, columns, width = image.shape
    image = image.reshape(b, rows // WINDOW, WINDOW, columns // WINDOW, WINDOW, width)
    return image.transpose(2, 3).reshape(b, -1, WINDOW * WINDOW, width)


def _from_windows(windows: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The inverse of `_to_windows`: (B, W, A, D) -> (B, R, C, D)."""
    b, _, _, width = windows.shape
    rows, columns = grid
    image = windows.reshape(b, rows // WINDOW, columns // WINDOW, WINDOW, WINDOW, width)
    return image.transpose(2, 3).reshape(b, rows, columns, width)
