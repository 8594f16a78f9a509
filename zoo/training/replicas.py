"""Whether the copies of the weights that several processes hold are still the same.

All take the same gradient, so that they stay equal to the last bit. A bit that flips in the memory
of one, or arithmetic that goes wrong there, raises no error, and its copy spreads what is wrong
through every later gradient (Silent Data Corruptions at Scale, arXiv 2102.11245).
"""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from zoo.errors import IntegrityError, UsageError
from zoo.training.world import World

__all__ = ["Replicas", "digests"]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_NAMED = 3  # tensors in a message


def digests(tensors: Iterable[Tensor]) -> Tensor:
    """(n,) int64: the sum of each tensor's bit patterns, which any one flipped bit changes."""
    patterns = (tensor.detach().view(_BITS[tensor.element_size()]) for tensor in tensors)
    return torch.stack([pattern.sum(dtype=torch.int64) for pattern in patterns])


class Replicas:
    """Compares the trained tensors of all processes every so many steps."""

    def __init__(self, module: nn.Module, world: World, every: int | None) -> None:
        """Remembers what to compare.

        Args:
            module: its trainable parameters.
            world: the processes that hold a copy each.
            every: steps between two comparisons; None: there are none.

        Raises:
            UsageError: the processes hold parts, not copies.
        """
        self._named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._world, self._every = world, every if world.size > 1 else None
        if self._every and any(isinstance(p, DTensor) for p in self._named.values()):
            raise UsageError(
                "train.compare_every is for processes that hold the whole model each: "
                "train.parallel=ddp"
            )

    def check(self, step: int = 0) -> None:
        """At the steps that are due, and whenever no step is given.

        Raises:
            IntegrityError: copies differ; names the ranks that are not of the majority.
        """
        if not self._every or step % self._every:
            return
        found = [
            tuple(one) for one in self._world.everyones(digests(self._named.values()).tolist())
        ]
        (usual, count), *others = Counter(found).most_common()
        if not others:
            return
        odd = [rank for rank, one in enumerate(found) if one != usual or 2 * count <= len(found)]
        names = [
            name
            for number, name in enumerate(self._named)
            if len({one[number] for one in found}) > 1
        ]
        raise IntegrityError(
            f"the weights of rank {', '.join(map(str, odd))} differ from the other processes' "
            f"({', '.join(names[:_NAMED])}; {len(names)} tensors): memory or arithmetic of such a "
            "machine is not to be trusted; without it the same command continues from the last "
            "checkpoint"
        )
