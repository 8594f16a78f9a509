"""Which negatives of a contrastive loss count, and how much: hard ones more, false ones not at all.

Hard negatives weigh more (arXiv 2010.04592): a query's sum over its n negatives becomes

    n sum_j exp((1 + beta) x_ij) / sum_j exp(beta x_ij),

the plain sum at beta = 0, towards n times the largest term as beta grows.

A negative is likely a false one where its sample is too alike to the query's own, side by side: two
texts that say the same have codes that answer both. Self-aware hard negatives (arXiv 2508.00955)
leave out candidates that belong to such queries; here, those of the batch and of the queue.

Notation: n samples of this process, N of all, M sides of a sample, D width of vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.similarity import Pairs, Traits, log_sum_exp

__all__ = ["PLAIN", "NegativesConfig", "alike", "negative_sums", "without_false"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativesConfig:
    """As an option of contrastive objectives."""

    hardness: float = 0.0  # beta
    # From which cosine of their texts, or of their images, two samples are no negatives.
    false_above: float | None = None

    def __post_init__(self) -> None:
        if self.hardness < 0 or not -1.0 <= (self.false_above or 0.0) <= 1.0:
            raise ValueError("negatives: hardness must not be negative, false_above be a cosine")


PLAIN = NegativesConfig()


def negative_sums(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    pairs: Pairs,
    *,
    hardness: float,
    batch: GlobalBatch | None = None,
) -> tuple[Tensor, Tensor]:
    """The log of the weighed sum over the keys of each query, and over the queries of each key.

    Args:
        queries: (n, D) of unit length.
        keys: (N, D) likewise.
        scale: one number.
        pairs: which of them meet.
        hardness: beta.
        batch: where each process has queries for all keys, and the second result is wanted.

    Returns:
        (n,), and (n,) for this process's keys, or empty.
    """

    def sums(factor: float) -> tuple[Tensor, Tensor]:
        found = log_sum_exp(queries, keys, scale * factor, pairs, with_columns=batch is not None)
        if batch is None:
            return found
        # Each process knows the logits of its own queries: all of them make up a key's sum.
        return found[0], batch.stack(found[1]).logsumexp(0)[batch.own]

    if not hardness:
        return sums(1.0)
    weighed, weights, counts = sums(1.0 + hardness), sums(hardness), sums(0.0)
    rows, columns = (w - v + n for w, v, n in zip(weighed, weights, counts, strict=True))
    return rows, columns


def without_false(
    pairs: Pairs, own: Sequence[Tensor], everyone: Sequence[Tensor], above: float
) -> Pairs:
    """The pairs that are left, by vectors of unit length of every side: (n, D) and (N, D) each."""
    sides = zip(own, everyone, strict=True)
    traits = tuple((mine.detach(), theirs.detach()) for mine, theirs in sides)
    return replace(pairs, traits=Traits(sides=traits, most=above))


def alike(sides: Sequence[Tensor], config: NegativesConfig) -> Tensor:
    """(n, n) True where two samples, as vectors (n, D) of every side, are no negatives."""
    above = torch.inf if config.false_above is None else config.false_above
    return torch.stack([side @ side.T > above for side in sides]).any(0)
