"""Sequences of different lengths in one row, without padding.

Everything in a transformer but attention works row by row, so a ragged batch of T real tokens costs
T, not B times the longest. `Packed` holds what attention needs to keep the sequences apart; it is
built once a batch, on the host, and shared by all layers.

Notation: B sequences, T tokens in all.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask

__all__ = ["Packed"]

T = TypeVar("T")


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
        self._made: dict[object, object] = {}

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first layer that asks and kept for the others."""
        if key not in self._made:
            self._made[key] = make()
        return cast(T, self._made[key])

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
    def runs(self) -> list[tuple[int, int]]:
        """Neighbours of one length: (tokens of each, how many they are)."""
        return [(n, len(list(run))) for n, run in groupby(self.lengths)]

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

    def count(self, index: Tensor) -> list[int]:
        """How many of the tokens at `index` (M,), ascending on the host, each sequence has.

        Raises:
            ValueError: they do not ascend, or one is there twice.
        """
        places = index.numpy()
        if (np.diff(places) < 1).any():
            raise ValueError("an index of tokens of a packed batch must ascend, each once")
        return np.diff(np.searchsorted(places, self._starts)).tolist()

    @cached_property
    def block_diagonal_mask(self) -> "BlockDiagonalMask":
        """Xformers' form of this division, made once a batch: it costs a copy to the device."""
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        return BlockDiagonalMask.from_seqlens(self.lengths, device=self.device)

    def pool_mean(self, x: Tensor) -> Tensor:
        """Mean over each sequence, (1, T, D) -> (B, D), summed in float32 at least."""
        wide = x[0].float() if x.dtype in (torch.float16, torch.bfloat16) else x[0]
        sums = wide.new_zeros(len(self._sizes), x.shape[-1])
        sums = sums.index_add(0, self.sequence_ids, wide)
        counts = torch.from_numpy(self._sizes).to(x.device, wide.dtype)
        return (sums / counts.unsqueeze(-1)).to(x.dtype)
