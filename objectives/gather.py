"""The batch of a step over all processes: whose rows are whose, and all of them in each process.

Gradients come back to the owner of a row from everybody who used it, summed. So where each process
goes backward from its own part of a loss, parts being weighed so that they add up to the loss, the
sum over processes of all gradients is that of a single process (the engine's DDP and FSDP take it).
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

__all__ = ["GlobalBatch"]


@dataclass(frozen=True, slots=True)
class GlobalBatch:
    """The rows of a step, in the order of ranks; every process makes it at the same moment.

    Attributes:
        sizes: rows of each process.
        rank: of this process.
    """

    sizes: tuple[int, ...]
    rank: int = 0

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Learns how many rows the others have beside these (n, ...)."""
        # On meta tensors FLOPs are counted, by some processes and not by others.
        if rows.is_meta or not (dist.is_available() and dist.is_initialized()):
            return cls((len(rows),))
        sizes = torch.empty(dist.get_world_size(), dtype=torch.int64)
        dist.all_gather_into_tensor(sizes, torch.tensor([len(rows)]))
        return cls(tuple(sizes.tolist()), dist.get_rank())

    @property
    def own(self) -> slice:
        """Where this process's rows are among all."""
        begin = sum(self.sizes[: self.rank])
        return slice(begin, begin + self.sizes[self.rank])

    def gather(self, rows: Tensor) -> Tensor:
        """(n, ...) of this process -> (N, ...) of all, with gradients."""
        return _gathered(rows, self.sizes, self.rank)

    def stack(self, tensor: Tensor) -> Tensor:
        """(...) that is of the same shape in each of W processes -> (W, ...), with gradients."""
        return _gathered(tensor.unsqueeze(0), (1,) * len(self.sizes), self.rank)

    def sum(self, tensor: Tensor) -> Tensor:
        """(...) of this process -> the sum over all, with gradients."""
        if len(self.sizes) == 1:
            return tensor
        total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
        return total


def _gathered(rows: Tensor, sizes: tuple[int, ...], rank: int) -> Tensor:
    if len(sizes) == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows, sizes, rank)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(Function):
    """All-gather; its gradient is a reduce-scatter. Collectives want parts of one size."""

    sizes: tuple[int, ...]
    rank: int

    @staticmethod
    def forward(ctx: "_Gather", rows: Tensor, sizes: tuple[int, ...], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        most = max(sizes)
        mine = rows.new_zeros(most, *rows.shape[1:])
        mine[: len(rows)] = rows
        parts = rows.new_empty(len(sizes) * most, *rows.shape[1:])
        dist.all_gather_into_tensor(parts, mine)
        if min(sizes) == most:
            return parts
        return torch.cat([p[:size] for p, size in zip(parts.split(most), sizes, strict=True)])

    @staticmethod
    def backward(ctx: "_Gather", gradient: Tensor) -> tuple[Tensor, None, None]:
        most = max(ctx.sizes)
        parts = gradient.new_zeros(len(ctx.sizes), most, *gradient.shape[1:])
        for part, rows in zip(parts, gradient.split(ctx.sizes), strict=True):
            part[: len(rows)] = rows
        mine = gradient.new_empty(most, *gradient.shape[1:])
        dist.reduce_scatter_tensor(mine, parts.flatten(0, 1))
        return mine[: ctx.sizes[ctx.rank]], None, None


class _Sum(Function):
    """All-reduce; so is its gradient."""

    @staticmethod
    def forward(ctx: "_Sum", tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: "_Sum", gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total
