"""Copies of modules that move slowly towards them: momentum encoders and teachers.

theta_slow <- m theta_slow + (1 - m) theta after each update (arXiv 1911.05722). As BYOL (arXiv
2006.07733) and DINO (arXiv 2104.14294) have it, m may rise to 1 by half a cosine.
"""

import copy
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from zoo.modalities.contracts import Encoder

__all__ = ["SlowCopy", "Teacher", "TeacherConfig"]


class SlowCopy(nn.ModuleList):
    """Frozen copies of modules, without dropout in training either."""

    def __init__(self, *modules: nn.Module) -> None:
        shared = {id(m.preprocess): m.preprocess for m in modules if isinstance(m, Encoder)}
        super().__init__(copy.deepcopy(module, shared) for module in modules)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Stays as in evaluation."""
        return super().train(False)

    @torch.no_grad()
    def follow(self, *modules: nn.Module, weight: float = 1.0) -> None:
        """Copies become (1 - weight) copy + weight module; buffers are copied."""
        originals = nn.ModuleList(modules)
        slow = [p.detach() for p in self.parameters()]
        torch._foreach_lerp_(slow, [p.detach() for p in originals.parameters()], weight)
        for mine, theirs in zip(self.buffers(), originals.buffers(), strict=True):
            mine.copy_(theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """How slowly a teacher follows, as an option of objectives."""

    momentum: float = 0.996  # m
    momentum_steps: int = 0  # updates over which it rises to 1, the run's length; 0: it stays

    def check(self) -> None:
        """Raises ValueError where a number is out of bounds."""
        if not 0.0 <= self.momentum <= 1.0 or self.momentum_steps < 0:
            raise ValueError("momentum must lie between 0 and 1, momentum_steps not be negative")


class Teacher(nn.Module):
    """Made for the modules that it copies.

    Attributes:
        towers: the copies, in the order of the modules.
        updates: () how often they have moved.
    """

    updates: Tensor

    def __init__(self, *modules: nn.Module, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.towers = SlowCopy(*modules)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def start(self, *modules: nn.Module) -> None:
        """The copies take the weights of the modules."""
        self.towers.follow(*modules)

    @torch.no_grad()
    def update(self, *modules: nn.Module) -> None:
        """After an update of the modules."""
        momentum, steps = self.config.momentum, self.config.momentum_steps
        weight = 1.0 - momentum
        if steps:
            weight *= (1.0 + math.cos(math.pi * min(1.0, int(self.updates) / steps))) / 2
        self.towers.follow(*modules, weight=weight)
        self.updates += 1
