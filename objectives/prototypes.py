"""Prototypes as DINO and iBOT have them: a head of many outputs, and the centre of a teacher's.

Notation: K prototypes, n samples of this process, N of all.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from zoo.objectives.gather import GlobalBatch

__all__ = ["Centre", "PrototypeHead", "warmed_up"]


class PrototypeHead(nn.Module):
    """Three layers with GELU, unit length, then the cosine to each of K prototypes."""

    def __init__(self, dim: int, *, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        if not self.prototypes.is_meta:
            nn.init.trunc_normal_(self.prototypes, std=0.02)
            for part in self.mlp:
                if isinstance(part, nn.Linear):
                    nn.init.trunc_normal_(part.weight, std=0.02)
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, learns: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., K); prototypes get their gradient times `learns` (), 0 or 1."""
        weight = normalize(self.prototypes, dim=1)
        if learns is not None:
            weight = weight.detach() + learns * (weight - weight.detach())
        return linear(normalize(self.mlp(x), dim=-1), weight)


class Centre(nn.Module):
    """The moving mean of a teacher's outputs, without which all samples get one prototype."""

    value: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))
        self._fresh: Tensor | None = None  # from `shares` to the `update` after it

    @torch.no_grad()
    def shares(self, outputs: Tensor, temperature: Tensor | float) -> Tensor:
        """(..., K) of a teacher -> its centred and sharpened shares; seen by the next `update`."""
        outputs = outputs.float()
        if self.training:
            rows = outputs.flatten(0, -2)
            batch = GlobalBatch.of(rows)
            self._fresh = batch.sum(rows.sum(0)) / max(1, sum(batch.sizes))
        return ((outputs - self.value) / temperature).softmax(-1)

    @torch.no_grad()
    def update(self) -> None:
        """Moves towards the mean of the last outputs, those of all processes."""
        if self._fresh is not None:
            self.value.lerp_(self._fresh, 1 - self.momentum)
            self._fresh = None


def warmed_up(updates: Tensor, first: float, last: float, steps: int) -> Tensor:
    """A line from `first` at update 0 to `last` at update steps - 1, then `last`: ()."""
    return first + (last - first) * (updates / max(1, steps - 1)).clamp(max=1.0)
