"""One attention function for every encoder, and the rule that picks its kernel.

Notation: B samples, N tokens, T tokens of a packed batch, H heads, E width of a head.

Rule (for tensors on the CPU / on CUDA):
    dense, no bias          SDPA, short half precision as plain products (1.3 to 3.7 times faster)
                            / xformers in half precision, SDPA in float32 (never silently cast)
    padded, causal, window  SDPA with a mask, or with a bias where there is ALiBi
    packed                  SDPA one sequence after the other / xformers' block-diagonal mask
    packed with a window    likewise / torch's varlen in half precision
    packed with ALiBi       likewise with a bias / flex attention, the only one that knows both
`ZOO_ATTENTION=sdpa` keeps to torch's kernels everywhere; the choice is logged once.

xformers 0.0.35 is built for torch 2.10: under 2.11 its own library stays unloaded, and its
attention still works, because it calls the kernels that torch ships.
"""

import importlib
import logging
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from zoo.modalities.packing import Packed
from zoo.modalities.seeing import Seeing, alibi_slopes

__all__ = [
    "alibi_slopes",
    "attention",
    "attention_at",
    "available_backends",
    "rotary",
    "rotate",
]

_log = logging.getLogger("zoo")
_SHORT = 512  # tokens up to which plain products beat SDPA's half-precision kernel on the CPU


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    packed: Packed | None = None,
    valid: Tensor | None = None,
    slopes: Tensor | None = None,
    window: int | None = None,
    causal: bool = False,
) -> Tensor:
    """Softmax attention with scale 1 / sqrt(E).

    Args:
        q: queries (B, N, H, E), or (1, T, H, E) when packed.
        k: keys, like `q`.
        v: values, like `q`.
        packed: how the T tokens divide into sequences that do not see each other.
        valid: (B, N) True at real tokens; the others are no keys, and their own rows mean nothing.
        slopes: (H,) ALiBi slopes: token j is seen from i with `-slope * |i - j|` added.
        window: token i sees only |i - j| <= window.
        causal: token i sees only j <= i.

    Returns:
        Like `q`.
    """
    seeing = Seeing(slopes=slopes, window=window, causal=causal)
    if packed is None:
        return _dense(q, k, v, seeing, valid)
    if valid is not None:
        raise ValueError("a packed batch has no padding: give `packed` or `valid`, not both")
    if not q.is_cuda:
        return _one_by_one(q, k, v, packed, seeing)
    if slopes is not None:
        return _packed_flex(q, k, v, packed, seeing)
    if window is None and (ops := _xformers(q)) is not None:
        return _packed_xformers(ops, q, k, v, packed, causal)
    if q.dtype in (torch.float16, torch.bfloat16):
        return _packed_varlen(q, k, v, packed, seeing)
    return _one_by_one(q, k, v, packed, seeing)


def attention_at(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    index: Tensor,
    packed: Packed | None = None,
    valid: Tensor | None = None,
    slopes: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """`attention` of some tokens to all; on the CPU the others' rows are not computed.

    Args:
        q: queries (1, M, H, E) of the tokens at `index`.
        k: keys (B, N, H, E), or (1, T, H, E) when packed.
        v: values, like `k`.
        index: (M,) into all B x N or T tokens, ascending, each once.
        packed: as in `attention`, like all that follow.
        valid: (B, N).
        slopes: (H,).
        window: tokens.

    Returns:
        Like `q`.
    """
    if packed is None or q.device.type != "cpu" or not len(index):
        every = torch.zeros_like(k).flatten(0, 1).index_copy(0, index, q[0]).view_as(k)
        seen = attention(every, k, v, packed=packed, valid=valid, slopes=slopes, window=window)
        return seen.flatten(0, 1).index_select(0, index).unsqueeze(0)
    seeing = Seeing(slopes=slopes, window=window)
    whole, counts = _whole_mask(q, packed, seeing), packed.count(index)
    places = packed.positions.index_select(0, index).split(counts)
    theirs = (x[0].split(packed.lengths) for x in (k, v))
    parts = []
    for one, rows, other, values in zip(q[0].split(counts), places, *theirs, strict=True):
        if not len(rows):
            continue
        if whole is None or not seeing.hides(len(other)):
            seen = _whole(one[None], other[None], values[None], seeing)
        else:
            mask = whole[..., : len(other)].index_select(2, rows)
            seen = _sdpa(one[None], other[None], values[None], mask, causal=False)
        parts.append(seen)
    return torch.cat(parts, dim=1)


def _dense(q: Tensor, k: Tensor, v: Tensor, seeing: Seeing, valid: Tensor | None) -> Tensor:
    if valid is None and not seeing.hides(q.shape[1]):
        return _whole(q, k, v, seeing)
    mask = seeing.mask(q.shape[1], q)
    if valid is None:
        return _sdpa(q, k, v, mask, causal=False)
    real = valid[:, None, None, :]
    if mask is None:
        mask = real
    elif mask.dtype == torch.bool:
        mask = mask & real
    else:
        mask = mask.masked_fill(~real, float("-inf"))
    return _sdpa(q, k, v, mask, causal=False)


def _whole(q: Tensor, k: Tensor, v: Tensor, seeing: Seeing) -> Tensor:
    """Without a mask to read: every token sees all others, or all before it."""
    ops = _xformers(q) if q.is_cuda and not seeing.causal else None
    if ops is not None:
        out: Tensor = ops.memory_efficient_attention(q, k, v)
        return out
    _say("sdpa")
    short = q.device.type == "cpu" and q.dtype != torch.float32 and q.shape[1] <= _SHORT
    if short and not seeing.causal:
        q, k, v = _heads_first(q, k, v)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return (weights.softmax(dim=-1) @ v).transpose(1, 2)
    return _sdpa(q, k, v, None, causal=seeing.causal)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    is_bias = mask is not None and mask.dtype != torch.bool
    if mask is not None and is_bias and mask.is_cuda and (n := mask.shape[-1]) % 8:
        # The memory-efficient kernel wants rows that start on 16 bytes.
        mask = pad(mask, (0, 8 - n % 8))[..., :n]
    q, k, v = _heads_first(q, k, v)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2)


def _one_by_one(q: Tensor, k: Tensor, v: Tensor, packed: Packed, seeing: Seeing) -> Tensor:
    """A dense call for each sequence, or for neighbours of one length: everywhere, no padding.

    On the CPU that beats padding like lengths together (benchmarks/speed/attention.py). A mask is
    made once for the longest; what depends on distances is the same in its upper left corner.
    """
    whole = _whole_mask(q, packed, seeing)
    sizes = [n * count for n, count in packed.runs]
    pieces = zip(*(x[0].split(sizes) for x in (q, k, v)), strict=True)
    parts = []
    for (n, count), piece in zip(packed.runs, pieces, strict=True):
        one, other, values = (x.unflatten(0, (count, n)) for x in piece)
        if whole is None or not seeing.hides(n):
            seen = _whole(one, other, values, seeing)
        else:
            seen = _sdpa(one, other, values, whole[..., :n, :n], causal=False)
        parts.append(seen.flatten(0, 1))
    return torch.cat(parts).unsqueeze(0)


def _whole_mask(q: Tensor, packed: Packed, seeing: Seeing) -> Tensor | None:
    """That of the longest sequence, where it needs one."""
    longest = packed.longest
    if not seeing.hides(longest):
        return None
    return packed.once(("mask", seeing.key, q.dtype), lambda: seeing.mask(longest, q))


def _packed_xformers(
    ops: ModuleType, q: Tensor, k: Tensor, v: Tensor, packed: Packed, causal: bool
) -> Tensor:
    mask = packed.block_diagonal_mask
    bias = mask.make_causal() if causal else mask
    out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=bias)
    return out


def _packed_flex(q: Tensor, k: Tensor, v: Tensor, packed: Packed, seeing: Seeing) -> Tensor:
    from zoo.modalities.flex import packed_flex  # half a second that only CUDA needs

    _say("torch flex")
    return packed_flex(q, k, v, packed, seeing)


def _packed_varlen(q: Tensor, k: Tensor, v: Tensor, packed: Packed, seeing: Seeing) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    _say("torch varlen")
    starts, longest = packed.cu_seqlens, packed.longest
    side = -1 if seeing.window is None else seeing.window
    window = (side, 0 if seeing.causal else side)
    out = varlen_attn(q[0], k[0], v[0], starts, starts, longest, longest, window_size=window)
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _heads_first(*tensors: Tensor) -> list[Tensor]:
    return [tensor.transpose(1, 2) for tensor in tensors]


def _xformers(q: Tensor) -> ModuleType | None:
    """Xformers' operators, where they are installed, wanted, and made for this tensor."""
    if q.dtype not in (torch.float16, torch.bfloat16) or not _wants_xformers():
        return None
    ops = _import_xformers()
    if ops is not None:
        _say("xformers")
    return ops


def _wants_xformers() -> bool:
    choice = os.environ.get("ZOO_ATTENTION", "auto")
    if choice not in ("auto", "sdpa", "xformers"):
        raise ValueError(f"ZOO_ATTENTION={choice!r}: choose auto, sdpa or xformers")
    return choice != "sdpa"


@cache
def _import_xformers() -> ModuleType | None:
    try:
        return importlib.import_module("xformers.ops")
    except ImportError:
        return None


def _say(backend: str) -> None:
    if not torch.compiler.is_compiling():  # logging would break the graph of every block
        _say_once(backend)


@cache
def _say_once(backend: str) -> None:
    _log.info("attention runs on %s", backend)


def available_backends() -> list[str]:
    """Kernels that attention can use on this machine."""
    names = ["sdpa (cpu)"]
    if torch.cuda.is_available():
        names += ["sdpa (cuda)", "torch varlen (cuda)"]
        if _import_xformers() is not None:
            names.append("xformers (cuda)")
    return names


def rotary(positions: Tensor, width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine (..., 1, E) of rotary positions (arXiv 2104.09864), rotate-half form.

    Args:
        positions: (...) integer positions.
        width: E, even.
        base: wavelength of the slowest pair, over 2 pi.
    """
    half = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions.float().unsqueeze(-1) * base**-half
    angles = torch.cat([angles, angles], dim=-1).unsqueeze(-2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Turns queries or keys (..., H, E) by the angles of `rotary`; computed in float32."""
    cos, sin = cos_sin
    wide = x.float()
    left, right = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat([-right, left], dim=-1) * sin).to(x.dtype)
