"""Cross-entropy over a vocabulary without ever holding all logits (arXiv 2411.09009).

Tile by tile, logits are made, become their own gradient, and make room for the next: memory grows
with V instead of M * V, and on a CPU a tile stays in the cache. The three matrix products are those
of the plain form.

Notation: M positions, D width, V vocabulary.
"""

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["tiled_cross_entropy"]

_ROWS = {"cpu": 256}  # positions of a tile
_ROWS_ELSEWHERE = 1024


def tiled_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Of logits x @ weight.T + bias, in float32 but for the products, which follow autocast.

    Args:
        x: (M, D).
        weight: (V, D).
        bias: (V,).
        targets: (M,) ids.

    Returns:
        The mean cross-entropy, and the share of targets that no other id surpasses; 0 where there
        is no target.
    """
    kind, dtype = x.device.type, x.dtype
    has_autocast = is_autocast_available(kind)  # not where operations are only counted
    if has_autocast and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False) if has_autocast else nullcontext():
        wanted = torch.is_grad_enabled()
        total, right = _Tiled.apply(x.to(dtype), weight.to(dtype), bias.float(), targets, wanted)  # type: ignore[no-untyped-call]
    count = max(1, len(targets))
    return total / count, right / count


class _Tiled(Function):
    """The sum over all targets, and how many of them no other id surpasses."""

    @staticmethod
    def forward(
        ctx: "_Tiled", x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, wanted: bool
    ) -> tuple[Tensor, Tensor]:
        total, right = bias.new_zeros(()), bias.new_zeros(())
        gradients = [torch.zeros_like(value, dtype=torch.float32) for value in (x, weight, bias)]
        rows = _ROWS.get(x.device.type, _ROWS_ELSEWHERE)
        memory = x.new_empty(min(rows, len(x)), len(weight))
        for start in range(0, len(x), rows):
            part, own = x[start : start + rows], targets[start : start + rows, None]
            logits = _logits(part, weight, bias, memory[: len(part)])
            best, mine = logits.amax(1), logits.gather(1, own)[:, 0]
            right += (mine >= best).sum()
            slopes = torch.softmax(logits, 1, out=logits)  # row by row: one pass through memory
            # The largest share never underflows, so it tells the sum that all were divided by.
            total += (best - slopes.amax(1).log() - mine).sum()
            if wanted:
                # d total / d logits: what is said less what is true
                slopes.scatter_(1, own, slopes.gather(1, own) - 1)
                _add_gradients(gradients, start, part, weight, slopes)
        ctx.mark_non_differentiable(right)
        ctx.save_for_backward(
            *(g.to(v.dtype) for g, v in zip(gradients, (x, weight, bias), strict=True))
        )
        return total, right

    @staticmethod
    @once_differentiable
    def backward(
        ctx: "_Tiled", scale: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        x, weight, bias = (gradient.mul_(scale) for gradient in saved)
        return x, weight, bias, None, None


def _logits(part: Tensor, weight: Tensor, bias: Tensor, memory: Tensor) -> Tensor:
    """Those of a tile in float32, written to `memory` where that is of the same type."""
    if part.dtype == bias.dtype:
        return torch.addmm(bias, part, weight.T, out=memory)
    return torch.mm(part, weight.T, out=memory).float().add_(bias)


def _add_gradients(
    gradients: list[Tensor], start: int, part: Tensor, weight: Tensor, slopes: Tensor
) -> None:
    """Those of a tile's x, and of the weight and the bias as far as this tile goes."""
    for_x, for_weight, for_bias = gradients
    for_bias += slopes.sum(0)
    slopes = slopes.to(part.dtype)
    for_x[start : start + len(part)] = slopes @ weight
    if part.dtype == for_weight.dtype:
        for_weight.addmm_(slopes.T, part)
    else:
        for_weight += slopes.T @ part
