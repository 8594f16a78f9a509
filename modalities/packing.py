"""Sequences of different lengths in one row, without padding.

Everything in a transformer but attention works row by row, so a ragged batch of T real tokens costs
T, not B times the longest. `Packed` holds what attention needs to keep the sequences apart; it is
built once a batch, on the host, and shared by all layers.

Notation: B sequences, T tokens in all, L longest of a bucket.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

__all__ = ["Bucket", "Packed"]

# A sequence joins a bucket when it fills at least this share of the bucket's longest. Attention is
# a small part of the work at these lengths, so a few wide buckets beat many narrow ones
# (benchmarks/speed/attention.py).
BUCKET_FILL = 0.6


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences of like length, padded to the longest of them."""

    rows: Tensor  # (n, L) which of the T tokens; 0 where there is none
    valid: Tensor | None  # (n, L) True at real tokens; None when all are


class Packed:
    """How T tokens divide into B sequences that do not see each other."""

    def __init__(self, lengths: Sequence[int] | Tensor, device: torch.device | None = None) -> None:
        """Takes the lengths (B,), each at least 1, on the host.

        Raises:
            ValueError: there is no sequence, or an empty one.
        """
        sizes = np.asarray(lengths, dtype=np.int64)
        if sizes.ndim != 1 or not sizes.size or sizes.min() < 1:
            raise ValueError(f"packed sequences need lengths of at least 1, got {sizes.tolist()}")
        self._sizes = sizes
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self.device = device or torch.device("cpu")

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return self._sizes.tolist()

    @property
    def total(self) -> int:
        """T."""
        return int(self._starts[-1])

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self._sizes.max())

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """(B + 1,) int32: where each sequence starts, then T."""
        return torch.from_numpy(self._starts.astype(np.int32)).to(self.device)

    @cached_property
    def positions(self) -> Tensor:
        """(T,) position of each token in its own sequence, from 0."""
        positions = np.arange(self.total) - np.repeat(self._starts[:-1], self._sizes)
        return torch.from_numpy(positions).to(self.device)

    @cached_property
    def sequence_ids(self) -> Tensor:
        """(T,) which sequence each token belongs to."""
        ids = np.repeat(np.arange(len(self._sizes)), self._sizes)
        return torch.from_numpy(ids).to(self.device)

    @cached_property
    def block_diagonal_mask(self) -> "BlockDiagonalMask":
        """Xformers' form of this division, made once a batch: it costs a copy to the device."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        return BlockDiagonalMask.from_seqlens(self.lengths, device=self.device)

    @cached_property
    def buckets(self) -> list[Bucket]:
        """The sequences by length, longest first, in groups of like length."""
        order = np.argsort(-self._sizes, kind="stable")
        buckets, start = [], 0
        for stop in range(1, len(order) + 1):
            longest = self._sizes[order[start]]
            if stop == len(order) or self._sizes[order[stop]] < BUCKET_FILL * longest:
                buckets.append(self._bucket(order[start:stop], int(longest)))
                start = stop
        return buckets

    @cached_property
    def restore(self) -> Tensor:
        """(T,) where token t lies when the padded buckets are laid end to end."""
        inverse = np.empty(self.total, dtype=np.int64)
        offset = 0
        for bucket in self.buckets:
            rows = bucket.rows.flatten().cpu().numpy()
            slots = np.arange(offset, offset + rows.size)
            real = slice(None) if bucket.valid is None else bucket.valid.flatten().cpu().numpy()
            inverse[rows[real]] = slots[real]
            offset += rows.size
        return torch.from_numpy(inverse).to(self.device)

    def pool_mean(self, x: Tensor) -> Tensor:
        """Mean over each sequence, (1, T, D) -> (B, D), summed in float32 at least."""
        wide = x[0].float() if x.dtype in (torch.float16, torch.bfloat16) else x[0]
        sums = wide.new_zeros(len(self._sizes), x.shape[-1])
        sums = sums.index_add(0, self.sequence_ids, wide)
        counts = torch.from_numpy(self._sizes).to(x.device, wide.dtype)
        return (sums / counts.unsqueeze(-1)).to(x.dtype)

    def _bucket(self, members: np.ndarray, longest: int) -> Bucket:
        columns = np.arange(longest)
        valid = columns < self._sizes[members, None]
        rows = np.where(valid, self._starts[members, None] + columns, 0)
        return Bucket(
            torch.from_numpy(rows).to(self.device),
            None if valid.all() else torch.from_numpy(valid).to(self.device),
        )
