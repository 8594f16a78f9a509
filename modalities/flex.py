"""Packed sequences with ALiBi on CUDA: torch's flex attention, the only kernel that knows both.

It is compiled at the first call. Notation: T tokens of a packed batch, H heads, E width of a head.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from zoo.modalities.packing import Packed
from zoo.modalities.seeing import Seeing

__all__ = ["packed_flex"]


def packed_flex(q: Tensor, k: Tensor, v: Tensor, packed: Packed, seeing: Seeing) -> Tensor:
    """(1, T, H, E) each -> (1, T, H, E), in the precision of `q`."""
    slopes = seeing.slopes
    assert slopes is not None

    def score(s: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return s - slopes[head] * (i - j).abs()

    run: Callable[..., object] = _compiled(flex_attention) if q.is_cuda else flex_attention
    mask = packed.once(("flex", seeing.key), lambda: _block_mask(packed, seeing))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = run(q, k, v, score_mod=score, block_mask=mask)
    assert isinstance(out, Tensor)
    return out.transpose(1, 2)


def _block_mask(packed: Packed, seeing: Seeing) -> BlockMask:
    ids = packed.sequence_ids

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        found = ids[i] == ids[j]
        if seeing.causal:
            found = found & (i >= j)
        if seeing.window is not None:
            found = found & ((i - j).abs() <= seeing.window)
        return found

    total, device = packed.total, packed.device.type
    make = _compiled(create_block_mask) if device == "cuda" else create_block_mask
    found = make(seen, None, None, total, total, device=device)
    assert isinstance(found, BlockMask)
    return found


@cache
def _compiled(function: Callable[..., object]) -> Callable[..., object]:
    """Not compiled, either function would write all T x T scores out."""
    return torch.compile(function, dynamic=True)
