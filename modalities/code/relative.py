"""T5's attention (arXiv 1910.10683): no scale, and a learned bias by relative distance.

Notation: T tokens of a packed batch, N tokens of a sequence, H heads, E width of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from zoo.modalities.packing import Packed

__all__ = ["RelativeBias", "attend", "buckets_of"]


def buckets_of(distance: Tensor, buckets: int, most: int, *, causal: bool) -> Tensor:
    """The bucket of each distance j - i.

    Half of them are exact, half grow logarithmically up to `most`. With `causal` what comes later
    shares bucket 0; else it has a half of its own.

    Args:
        distance: (...) integers.
        buckets: their number, an even one.
        most: from this distance on, all share the last.
        causal: see above.
    """
    if causal:
        side, away = torch.zeros_like(distance), (-distance).clamp(min=0)
    else:
        buckets //= 2
        side, away = (distance > 0) * buckets, distance.abs()
    exact = buckets // 2
    growth = (away.clamp(min=1).float() / exact).log() / math.log(most / exact)
    far = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return side + torch.where(away < exact, away, far)


class RelativeBias(nn.Module):
    """What is added to the score of token j seen from i; -inf where a causal stack may not look."""

    def __init__(self, heads: int, buckets: int, most: int, *, causal: bool) -> None:
        super().__init__()
        self.buckets, self.most, self.causal = buckets, most, causal
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, n: int) -> Tensor:
        """(H, N, N) for n tokens; fewer take its upper left corner."""
        positions = torch.arange(n, device=self.weight.device)
        distance = positions - positions[:, None]
        places = buckets_of(distance, self.buckets, self.most, causal=self.causal)
        bias = nn.functional.embedding(places, self.weight).permute(2, 0, 1)
        return bias.masked_fill(distance > 0, float("-inf")) if self.causal else bias


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    divisions: tuple[Packed, Packed],
    *,
    bias: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention without scale, one sequence after the other.

    Args:
        q: queries (1, T, H, E).
        k: keys, perhaps of other sequences.
        v: values, like `k`.
        divisions: of the queries, and of keys and values.
        bias: (H, N, N) of the longest sequence.
        dropout: of attention weights.

    Returns:
        Like `q`.
    """
    queries, keys = (division.lengths for division in divisions)
    parts = []
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    pieces = zip(q.split(queries, 2), k.split(keys, 2), v.split(keys, 2), strict=True)
    for n, (one, other, values) in zip(queries, pieces, strict=True):
        mask = None if bias is None else bias[:, :n, :n].unsqueeze(0)
        seen = scaled_dot_product_attention(
            one, other, values, attn_mask=mask, dropout_p=dropout, scale=1.0
        )
        parts.append(seen.transpose(1, 2))
    return torch.cat(parts, dim=1)
