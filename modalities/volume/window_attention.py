"""Attention inside the windows of a Swin transformer without keeping its weights (2103.14030).

MONAI's keeps the weights of all windows for the way back, 343 x 343 for each head of a window: 176
MB for a crop of 64^3 in the first stage alone. Here the CPU goes from head to head, whose weights
fit into its cache, and computes them again on the way back (arXiv 2205.14135); other devices use
torch's fused kernel, which does the same. Numbers and parameters are MONAI's.

Notation: W windows of all volumes, w of one, H heads, N tokens of a window, E width of a head,
D = H * E.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["WindowAttention", "fused", "use_window_attention", "windowed"]


class WindowAttention(nn.Module):
    """Takes the place of MONAI's module of that name, with its parameters and buffers."""

    relative_position_index: Tensor

    def __init__(self, monai: nn.Module) -> None:
        super().__init__()
        self.num_heads = cast("int", monai.num_heads)
        self.relative_position_bias_table = monai.get_parameter("relative_position_bias_table")
        self.register_buffer("relative_position_index", monai.get_buffer("relative_position_index"))
        self.qkv, self.proj = monai.get_submodule("qkv"), monai.get_submodule("proj")

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(W, N, D) and (w, N, N), added to scores where windows wrap around -> (W, N, D)."""
        tokens = x.shape[1]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # Windows of small volumes are smaller; MONAI takes the corner of the table.
        rows = self.relative_position_index[:tokens, :tokens].flatten()
        bias = self.relative_position_bias_table[rows].unflatten(0, (tokens, -1)).permute(2, 0, 1)
        found = windowed(q * q.shape[-1] ** -0.5, k, v, bias, mask)
        return self.proj(found.transpose(1, 2).flatten(2))


def use_window_attention(network: nn.Module) -> None:
    """Replaces MONAI's window attention everywhere in `network`; names of parameters stay."""
    for block in [*network.modules()]:
        inner = getattr(block, "attn", None)
        if hasattr(inner, "relative_position_bias_table"):
            block.attn = WindowAttention(inner)  # type: ignore[arg-type]


def windowed(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T + bias + mask) v.

    Args:
        q: (W, H, N, E), scaled.
        k: like `q`.
        v: like `q`.
        bias: (H, N, N), the same in every window.
        mask: (w, N, N), for each window of a volume; windows of a volume follow each other.

    Returns:
        Like `q`.
    """
    if q.device.type == "cpu":
        precise = torch.promote_types(q.dtype, torch.float32)
        parts = (x.to(precise).contiguous() for x in (q, k, v, bias))
        found: Tensor = _Windowed.apply(*parts, mask)  # type: ignore[no-untyped-call]
        return found.to(v.dtype)
    return fused(q, k, v, bias, mask)


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
    """`windowed` by torch's kernel."""
    if mask is not None:
        bias = (bias + mask.unsqueeze(1)).repeat(len(q) // len(mask), 1, 1, 1)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)


class _Windowed(Function):
    """One head of one window at a time."""

    @staticmethod
    def forward(
        ctx: "_Windowed", q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None
    ) -> Tensor:
        found = torch.empty_like(v)
        for place, _, weights in _weights(q, k, bias, mask):
            torch.mm(weights, v[place], out=found[place])
        ctx.save_for_backward(q, k, v, bias, mask)  # type: ignore[arg-type] # None is saved too
        return found

    @staticmethod
    def backward(ctx: "_Windowed", grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        q, k, v, bias, mask = saved
        for_q, for_k, for_v = (torch.empty_like(x) for x in (q, k, v))
        for_bias = torch.zeros_like(bias)
        slopes = torch.empty_like(bias[0])
        for place, head, weights in _weights(q, k, bias, mask):
            given = grad[place]
            torch.mm(weights.T, given, out=for_v[place])
            torch.mm(given, v[place].T, out=slopes).mul_(weights)
            slopes.addcmul_(weights, slopes.sum(dim=1, keepdim=True), value=-1)
            for_bias[head] += slopes
            torch.mm(slopes, k[place], out=for_q[place])
            torch.mm(slopes.T, q[place], out=for_k[place])
        return for_q, for_k, for_v, for_bias, None


def _weights(
    q: Tensor, k: Tensor, bias: Tensor, mask: Tensor | None
) -> Iterator[tuple[tuple[int, int], int, Tensor]]:
    """((window, head), head, softmax (N, N)); the memory of the softmax is used again."""
    scores, weights = torch.empty_like(bias[0]), torch.empty_like(bias[0])
    # A window that does not wrap has no entry in the mask, nor has its first token.
    wraps = [False] if mask is None else mask[:, 0].any(dim=1).tolist()
    for window in range(len(q)):
        number = window % len(wraps)
        for head in range(q.shape[1]):
            torch.mm(q[window, head], k[window, head].T, out=scores).add_(bias[head])
            if mask is not None and wraps[number]:
                scores.add_(mask[number])
            torch.softmax(scores, dim=1, out=weights)
            yield (window, head), head, weights
