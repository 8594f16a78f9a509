"""The order of samples: a pure function of (seed, epoch, position), O(1) in time and memory.

Position g counts samples over all epochs. Epochs are bijections: each visits every sample once.
Blocks of `block` neighbours stay together on disk, `pool` samples are shuffled among each other,
`lanes` are independent streams. Integer arithmetic mod 2**64 only: no library's random stream
takes part, so that the order never changes between versions. Normative text: specification `data`,
2.2.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Order", "Purpose", "key", "mix", "perm"]

Words = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6


class Purpose(IntEnum):
    """What a key is for: no two kinds of chance ever share one."""

    EPOCH_BLOCKS = 1
    LANE_POOLS = 2
    MIXTURE_WINDOW = 3
    AUGMENT = 4
    SELECT = 5
    SHUFFLE = 6  # of samples on their way into shards
    PROCESS = 7  # what else a process of a run draws, once it cannot go on where it was


def mix(x: Words) -> Words:
    """splitmix64's finaliser: a bijection of 64-bit words that scatters every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key(*parts: int | Words) -> Words:
    """One word from several; arrays broadcast."""
    h = np.full(1, _GOLDEN)
    for part in parts:
        v = np.asarray(part, dtype=np.uint64)
        h = mix(h ^ (v + _GOLDEN + (h << np.uint64(6)) + (h >> np.uint64(2))))
    return h


def perm(x: Words | np.uint64, n: Words | np.uint64, k: Words, *, inverse: bool = False) -> Words:
    """Where x goes in a random permutation of range(n) chosen by k.

    A Feistel cipher on the next even number of bits, repeated until the result is below n.

    Args:
        x: numbers below `n`.
        n: sizes, of the same shape.
        k: keys, of the same shape.
        inverse: what goes to x instead.
    """
    shape = np.broadcast(x, n, k).shape
    flat: Words = np.array(np.broadcast_to(x, shape), dtype=np.uint64).ravel()
    limit: Words = np.broadcast_to(np.asarray(n, dtype=np.uint64), shape).ravel()
    half = _widths(limit)
    rounds = _round_keys(np.broadcast_to(k, shape).ravel())
    todo = np.flatnonzero(limit > 1)
    while todo.size:
        whole = todo.size == flat.size  # the first time around nothing needs to be picked out
        h = half if whole else half[todo]
        low = (np.uint64(1) << h) - np.uint64(1)
        start = flat if whole else flat[todo]
        left: Words = start >> h
        right: Words = start & low
        for r in rounds[::-1] if inverse else rounds:
            r = r if whole or r.size == 1 else r[todo]
            if inverse:
                left, right = right ^ (mix(left + r) & low), left
            else:
                left, right = right, left ^ (mix(right + r) & low)
        flat[todo] = (left << h) | right
        todo = todo[flat[todo] >= limit[todo]]
    return flat.reshape(shape)


def _widths(limit: Words) -> Words:
    """Bits of half a number below each limit, rounded up."""
    sizes, which = _distinct(limit)
    bits = [max(2, int(size - 1).bit_length()) for size in np.maximum(sizes, 1).tolist()]
    return np.array([(b + 1) // 2 for b in bits], dtype=np.uint64)[which]


def _round_keys(k: Words) -> list[Words]:
    """The key of each round: of size 1 where all are the same."""
    keys, which = _distinct(k)
    return [key(keys, j)[which] if keys.size > 1 else key(keys, j) for j in range(_ROUNDS)]


def _distinct(values: Words) -> tuple[Words, NDArray[np.int64]]:
    """The different values, and which of them each is; neighbours are mostly equal."""
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    starts = np.concatenate([np.zeros(1, np.int64), changes]) if values.size else changes
    lengths = np.diff(np.append(starts, values.size))
    return values[starts], np.repeat(np.arange(starts.size), lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which sample stands at which position, for `samples` samples."""

    samples: int  # M
    seed: int = 0
    block: int = 64  # b: neighbours on disk that stay together
    pool: int = 16_384  # P: samples that are shuffled among each other
    lanes: int = 1  # C: independent streams

    def __post_init__(self) -> None:
        if min(self.samples, self.block, self.pool, self.lanes) < 1:
            raise ValueError(f"samples, block, pool and lanes must be at least 1: {self}")

    def epochs(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which pass over the data each position belongs to."""
        return np.asarray(positions) // self.samples

    def ids(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample ids, below `samples`, at any positions >= 0."""
        g = np.asarray(positions, dtype=np.uint64)
        m, c = np.uint64(self.samples), np.uint64(self.lanes)
        epoch, p = g // m, g % m
        with np.errstate(over="ignore"):
            slot = self._slot(epoch, p, m // c)
            return self._sample(epoch, slot).astype(np.int64)

    def _slot(self, epoch: Words, p: Words, length: np.uint64) -> Words:
        """Shuffles inside the pools of each lane; the tail shorter than a lane stays."""
        c, pool = np.uint64(self.lanes), np.uint64(self.pool)
        i, lane = p // c, p % c
        window, offset = i // pool, i % pool
        inside = p < c * length
        n = np.minimum(pool, np.where(inside, length - window * pool, 1))
        offset = np.where(inside, offset, 0)
        # Neighbours share a pool, and so its key: that is most of the work.
        pools, which = _distinct((epoch * c + lane) * (length + np.uint64(1)) + window)
        first = np.searchsorted(which, np.arange(pools.size))
        k = key(self.seed, epoch[first], Purpose.LANE_POOLS, lane[first], window[first])[which]
        shuffled = lane * length + window * pool + perm(offset, n, k)
        return np.where(inside, shuffled, p)

    def _sample(self, epoch: Words, slot: Words) -> Words:
        """Permutes the blocks; the short last block may stand anywhere."""
        m, b = np.uint64(self.samples), np.uint64(self.block)
        blocks = (m + b - np.uint64(1)) // b
        rest = m - (blocks - np.uint64(1)) * b
        epochs, which = _distinct(epoch)
        keys = key(self.seed, epochs, Purpose.EPOCH_BLOCKS)
        kb = keys[which]
        short = perm(blocks - np.uint64(1), blocks, keys, inverse=True)[which]
        after = slot - rest
        j = np.where(slot < short * b, slot // b, np.uint64(1) + after // b)
        f = np.where(slot < short * b, slot % b, after % b)
        in_short = (slot >= short * b) & (slot < short * b + rest)
        j, f = np.where(in_short, short, j), np.where(in_short, slot - short * b, f)
        return perm(j, blocks, kb) * b + f
