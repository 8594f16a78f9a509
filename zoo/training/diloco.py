"""Processes that rarely talk: DiLoCo (arXiv 2311.08105) and SparseLoCo (arXiv 2508.15706).

Each worker trains by itself; now and then `OuterStep` takes how far each has come as a gradient of
the weights that they share, and all go on from the result. SparseLoCo sends little of it, and
keeps what was not sent for the next round.

Notation: R workers; theta, the shared weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD

from zoo.training.compress import TopK
from zoo.training.groups import Named
from zoo.training.optim_state import optimizer_tensors, restore_optimizers
from zoo.training.world import World

__all__ = ["Outer", "OuterStep", "clipped_to_median"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """DiLoCo by default; SparseLoCo: `lr=0.4, momentum=0, compression=TopK()`."""

    lr: float = 0.7
    momentum: float = 0.9  # Nesterov's
    compression: TopK | None = None
    keep: float = 0.95  # of what was not sent, from round to round
    robust: bool = False  # `clipped_to_median` in place of the mean over all workers


class OuterStep:
    """The shared weights of all workers, and what this one still owes them."""

    def __init__(self, named: Named, outer: Outer, world: World) -> None:
        """Shares the weights as they are now; they must be the same on all workers.

        Args:
            named: what is trained, and moved by each `step`.
            outer: how.
            world: the workers.
        """
        self.local = {name: p for name, p in named if p.requires_grad}
        self.outer, self.world = outer, world
        self.shared = {name: nn.Parameter(p.detach().clone()) for name, p in self.local.items()}
        self.owed = {name: torch.zeros_like(p) for name, p in self.local.items()}
        self.optimizer = SGD(
            self.shared.values(), outer.lr, outer.momentum, nesterov=outer.momentum > 0
        )

    @torch.no_grad()
    def step(self) -> None:
        """Ends a round: theta moves by what all workers sent, and this one's weights become it."""
        moved = {name: self.shared[name] - p for name, p in self.local.items()}
        mean = self._mean(moved) if self.outer.compression is None else self._sent(moved)
        for name, shared in self.shared.items():
            shared.grad = mean[name]
        self.optimizer.step()
        for name, p in self.local.items():
            p.copy_(self.shared[name])

    def tensors(self) -> dict[str, Tensor]:
        """All that the next round needs; what is owed differs from worker to worker."""
        shared = {f"shared/{name}": p.detach() for name, p in self.shared.items()}
        owed = {f"owed/{name}": tensor for name, tensor in self.owed.items()}
        optimizer = optimizer_tensors([self.optimizer], self.shared.items())
        return shared | owed | {f"optim/{name}": tensor for name, tensor in optimizer.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""
        for name, shared in self.shared.items():
            shared.copy_(tensors[f"shared/{name}"])
            self.owed[name].copy_(tensors[f"owed/{name}"])
        optimizer = {n.removeprefix("optim/"): t for n, t in tensors.items() if "optim/" in n}
        restore_optimizers([self.optimizer], self.shared.items(), optimizer)

    def _mean(self, moved: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.world.sum_(delta) / self.world.size for name, delta in moved.items()}

    def _sent(self, moved: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of what every worker sends of its own; the rest is owed."""
        topk = self.outer.compression
        assert topk is not None
        messages = []
        for name, delta in moved.items():
            owed = self.owed[name].mul_(self.outer.keep).add_(delta)
            messages.append(topk.encode(owed))
            owed.sub_(topk.decode(messages[-1], owed))
        sizes = [len(message) for message in messages]
        heard = [message.split(sizes) for message in self._everyones(torch.cat(messages))]
        mean = {}
        for i, (name, delta) in enumerate(moved.items()):
            sent = torch.stack([topk.decode(worker[i], delta) for worker in heard])
            mean[name] = clipped_to_median(sent) if self.outer.robust else sent.mean(0)
        return mean

    def _everyones(self, message: Tensor) -> list[Tensor]:
        if self.world.size == 1:
            return [message]
        heard = [torch.empty_like(message) for _ in range(self.world.size)]
        dist.all_gather(heard, message)
        return heard


def clipped_to_median(sent: Tensor) -> Tensor:
    """Bounds what one worker can do: its norm, by the (lower) median of all.

    Args:
        sent: (R, ...), zero where a worker sent nothing.

    Returns:
        At each place the mean over the workers that sent something there, as templar does.
    """
    norms = sent.flatten(1).norm(dim=1)
    factors = (norms.median() / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
    total = torch.tensordot(factors, sent, dims=1)
    return total / (sent != 0).sum(0).clamp(min=1)
