"""One attention function for every encoder, and the rule that picks its kernel.

Notation: B samples, N tokens, T tokens of a packed batch, H heads, E width of a head.

Rule (for tensors on the CPU / on CUDA):
    dense, no bias          SDPA, short half precision as plain products (1.3 to 3.7 times faster)
                            / xformers in half precision, SDPA in float32 (never silently cast)
    padded, causal          SDPA with a mask
    ALiBi                   SDPA with a dense bias, bucket by bucket where packed
    packed                  buckets through SDPA / xformers' block-diagonal mask, else torch's
    varlen
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

__all__ = ["alibi_slopes", "attention", "available_backends", "rotary", "rotate"]

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
        causal: token i sees only j <= i.

    Returns:
        Like `q`.
    """
    if packed is None:
        return _dense(q, k, v, valid=valid, slopes=slopes, causal=causal)
    if valid is not None:
        raise ValueError("a packed batch has no padding: give `packed` or `valid`, not both")
    if slopes is None and q.is_cuda:
        if (ops := _xformers(q)) is not None:
            return _packed_xformers(ops, q, k, v, packed, causal)
        if q.dtype in (torch.float16, torch.bfloat16):
            return _packed_varlen(q, k, v, packed, causal)
    return _one_by_one(q, k, v, packed, slopes, causal)


def _dense(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    valid: Tensor | None,
    slopes: Tensor | None,
    causal: bool,
) -> Tensor:
    if valid is None and slopes is None:
        ops = _xformers(q) if q.is_cuda and not causal else None
        if ops is not None:
            out: Tensor = ops.memory_efficient_attention(q, k, v)
            return out
        _say("sdpa")
        short = q.device.type == "cpu" and q.dtype != torch.float32 and q.shape[1] <= _SHORT
        q, k, v = _heads_first(q, k, v)
        if short and not causal:
            weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            return (weights.softmax(dim=-1) @ v).transpose(1, 2)
        return scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)
    mask = _mask(q.shape[1], q, valid, slopes, causal)
    q, k, v = _heads_first(q, k, v)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _one_by_one(
    q: Tensor, k: Tensor, v: Tensor, packed: Packed, slopes: Tensor | None, causal: bool
) -> Tensor:
    """A dense call for each sequence: on every device, with ALiBi, and without a mask to read.

    On the CPU that beats padding like lengths together (benchmarks/speed/attention.py).
    """
    pieces = zip(*(x.split(packed.lengths, dim=1) for x in (q, k, v)), strict=True)
    parts = [_dense(*piece, valid=None, slopes=slopes, causal=causal) for piece in pieces]
    return torch.cat(parts, dim=1)


def _packed_xformers(
    ops: ModuleType, q: Tensor, k: Tensor, v: Tensor, packed: Packed, causal: bool
) -> Tensor:
    mask = packed.block_diagonal_mask
    bias = mask.make_causal() if causal else mask
    out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=bias)
    return out


def _packed_varlen(q: Tensor, k: Tensor, v: Tensor, packed: Packed, causal: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    _say("torch varlen")
    starts, longest = packed.cu_seqlens, packed.longest
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(q[0], k[0], v[0], starts, starts, longest, longest, window_size=window)
    assert isinstance(out, Tensor)
    return out.unsqueeze(0)


def _mask(
    n: int, like: Tensor, valid: Tensor | None, slopes: Tensor | None, causal: bool
) -> Tensor:
    """Broadcasts to (B, H, N, N): boolean (True = seen) without slopes, else an additive bias."""
    positions = torch.arange(n, device=like.device)
    seen = None if valid is None else valid[:, None, None, :]
    if causal:
        past = positions[:, None] >= positions[None, :]
        seen = past if seen is None else seen & past
    if slopes is None:
        assert seen is not None
        return seen
    distance = (positions[:, None] - positions[None, :]).abs()
    bias = (-slopes.view(-1, 1, 1) * distance).to(like.dtype).unsqueeze(0)
    if seen is not None:
        bias = bias.masked_fill(~seen, float("-inf"))
    if like.is_cuda and n % 8:  # the memory-efficient kernel wants rows that start on 16 bytes
        bias = pad(bias, (0, 8 - n % 8))[..., :n]
    return bias


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


def alibi_slopes(heads: int) -> Tensor:
    """(H,) slopes of ALiBi (arXiv 2108.12409); head counts that are no power of two included."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    if power < heads:
        finer = [2.0 ** (-4 * i / power) for i in range(1, 2 * power + 1)]
        slopes += finer[0::2][: heads - power]
    return torch.tensor(slopes)


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
