"""Sums over the similarities of all queries with all keys, without ever holding all of them.

Logits are computed in tiles, reduced at once and computed again in the backward pass: memory grows
with n + N instead of n * N, and there are four matrix products instead of three. The reductions are
those of online softmax (arXiv 1805.02867), tiles with recomputation those of arXiv 2205.14135.

A query and a key that share an id are no pair here: a sample is no negative of itself. Nor are
those whose samples are too alike, where that is asked for.

Notation: n queries and N keys of width D, logits x_ij = scale * q_i . k_j + bias.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import softplus

__all__ = ["Pairs", "Traits", "log_sum_exp", "softplus_sum"]

TILE = 2048  # queries, and keys, whose logits are in memory together: 16 MB
_NOBODY = torch.finfo(torch.float32).min  # not -inf, from which -inf cannot be taken away


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells of samples that they are too alike to be negatives of each other.

    Attributes:
        sides: vectors of unit length (n, D) of the queries' samples and (N, D) of the keys'.
        most: the cosine of a side above which they are.
    """

    sides: tuple[tuple[Tensor, Tensor], ...]
    most: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which queries meet which keys: all whose ids differ, each from the other's.

    Attributes:
        queries: (n, K) ids.
        keys: (N, K) ids.
        traits: by which some of them do not meet either.
    """

    queries: Tensor
    keys: Tensor
    traits: Traits | None = None

    def excluded(self, i: slice, j: slice) -> Tensor:
        """True where a query of `i` does not meet a key of `j`."""
        ids = zip(self.queries[i].unbind(1), self.keys[j].unbind(1), strict=True)
        alike = [mine[:, None] == theirs for mine, theirs in ids]
        if self.traits is not None:
            sides, most = self.traits.sides, self.traits.most
            alike += [_cosines(mine[i], theirs[j]) > most for mine, theirs in sides]
        return reduce(or_, alike)


def _cosines(queries: Tensor, keys: Tensor) -> Tensor:
    # Autocast leaves products alone that are told where to write: these stay precise.
    return torch.mm(queries, keys.T, out=queries.new_empty(len(queries), len(keys)))


def log_sum_exp(
    queries: Tensor, keys: Tensor, scale: Tensor, pairs: Pairs, *, with_columns: bool = False
) -> tuple[Tensor, Tensor]:
    """The log sum exp of x_ij over the keys of each query, and over the queries of each key.

    Args:
        queries: (n, D).
        keys: (N, D).
        scale: one number.
        pairs: which of them meet; who meets nobody gets the lowest float32.
        with_columns: whether the second result is wanted, which costs more exponentials.

    Returns:
        (n,) over keys, and (N,) over queries, or empty.
    """
    rows, columns = _LogSumExp.apply(queries, keys, scale, pairs, with_columns)  # type: ignore[no-untyped-call]
    return rows, columns


def softplus_sum(
    queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor, pairs: Pairs
) -> Tensor:
    """The sum of log(1 + exp x_ij) over the keys of each query: (n,); `bias` is one number."""
    rows: Tensor = _SoftplusSum.apply(queries, keys, scale, bias, pairs)  # type: ignore[no-untyped-call]
    return rows


class _LogSumExp(Function):
    pairs: Pairs

    @staticmethod
    def forward(
        ctx: "_LogSumExp",
        queries: Tensor,
        keys: Tensor,
        scale: Tensor,
        pairs: Pairs,
        with_columns: bool,
    ) -> tuple[Tensor, Tensor]:
        rows = queries.new_full((len(queries),), _NOBODY)
        columns = keys.new_full((len(keys) if with_columns else 0,), _NOBODY)
        for i, j, logits in _tiles(queries * scale, keys, pairs):
            rows[i] = torch.logaddexp(rows[i], logits.logsumexp(1))
            if with_columns:
                columns[j] = torch.logaddexp(columns[j], logits.logsumexp(0))
        ctx.save_for_backward(queries, keys, scale, rows, columns)
        ctx.pairs = pairs
        return rows, columns

    @staticmethod
    def backward(
        ctx: "_LogSumExp", for_rows: Tensor, for_columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        queries, keys, scale, rows, columns = saved

        def slopes(i: slice, j: slice, logits: Tensor) -> Tensor:
            by_rows = (logits - rows[i, None]).exp_().mul_(for_rows[i, None])
            if not len(columns):
                return by_rows
            by_columns = logits.sub_(columns[j]).exp_().mul_(for_columns[j])
            return by_rows.add_(by_columns)

        gradients = _gradients(queries, keys, scale, None, ctx.pairs, slopes)
        return *gradients[:3], None, None


class _SoftplusSum(Function):
    pairs: Pairs

    @staticmethod
    def forward(
        ctx: "_SoftplusSum",
        queries: Tensor,
        keys: Tensor,
        scale: Tensor,
        bias: Tensor,
        pairs: Pairs,
    ) -> Tensor:
        rows = queries.new_zeros(len(queries))
        for i, _, logits in _tiles(queries * scale, keys, pairs, bias):
            rows[i] += softplus(logits).sum(1)
        ctx.save_for_backward(queries, keys, scale, bias)
        ctx.pairs = pairs
        return rows

    @staticmethod
    def backward(
        ctx: "_SoftplusSum", for_rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        queries, keys, scale, bias = saved

        def slopes(i: slice, j: slice, logits: Tensor) -> Tensor:
            return logits.sigmoid_().mul_(for_rows[i, None])

        q, k, s, b = _gradients(queries, keys, scale, bias, ctx.pairs, slopes)
        return q, k, s, b.view_as(bias), None


def _gradients(
    queries: Tensor,
    keys: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    pairs: Pairs,
    slopes: Callable[[slice, slice, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of queries, keys, scale and bias, from the tiles' `slopes`: d loss / d x_ij."""
    scaled = queries * scale
    for_scaled, for_keys = torch.zeros_like(queries), torch.zeros_like(keys)
    for_bias = queries.new_zeros(())
    for i, j, logits in _tiles(scaled, keys, pairs, bias):
        tile = slopes(i, j, logits)
        for_scaled[i].addmm_(tile, keys[j])
        for_keys[j].addmm_(tile.T, scaled[i])
        if bias is not None:
            for_bias += tile.sum()
    for_scale = (for_scaled * queries).sum().view_as(scale)
    return for_scaled.mul_(scale), for_keys, for_scale, for_bias


def _tiles(
    scaled: Tensor, keys: Tensor, pairs: Pairs, bias: Tensor | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """(queries, keys, logits) tile by tile; the memory of the logits is used again."""
    memory = scaled.new_empty(min(TILE, len(scaled)) * min(TILE, len(keys)))
    for row in range(0, len(scaled), TILE):
        i = slice(row, min(row + TILE, len(scaled)))
        for column in range(0, len(keys), TILE):
            j = slice(column, min(column + TILE, len(keys)))
            shape = i.stop - i.start, j.stop - j.start
            logits = memory[: shape[0] * shape[1]].view(shape)
            # As `_cosines`, in memory that is used again.
            torch.mm(scaled[i], keys[j].T, out=logits)
            if bias is not None:
                logits += bias
            yield i, j, logits.masked_fill_(pairs.excluded(i, j), -torch.inf)
