"""TiCo: views alike, and away from the directions that past samples took (arXiv 2206.10698).

L = 1/N sum_i (1 - z_i . z'_i) + rho/N sum_i z_i^T C z_i of projections of unit length, z' those of
a slow teacher. C <- beta C + (1 - beta) 1/N sum_i z_i z_i^T is a moving average over updates: a
memory of negatives whose size does not grow with their number. Gradients do not flow through C, as
in lightly 1.6.

Notation: n samples of this process, N of all, D width of a projection.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, UniformEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.projector import projector
from zoo.objectives.teacher import Teacher, TeacherConfig
from zoo.objectives.views import Colours, encoded, stacked_views

__all__ = ["TiCo", "TiCoConfig", "moving_covariance", "tico"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TiCoConfig(TeacherConfig):
    """The loss, the projector, the teacher and the views."""

    rho: float = 8.0
    beta: float = 0.9
    momentum: float = 0.99
    hidden_dim: int = 4096
    output_dim: int = 256
    colours: Colours = field(default_factory=Colours)

    def __post_init__(self) -> None:
        self.check()
        if not 0.0 <= self.beta < 1.0 or self.rho < 0:
            raise ValueError("beta must lie between 0 and 1, rho not be negative")


class TiCo(Objective):
    """Batches hold both views of each sample: every field is (B, 2, ...)."""

    requires: ClassVar[type[Encoder]] = UniformEncoder
    config_class = TiCoConfig
    compares_samples = True
    covariance: Tensor  # (D, D), after the last update

    def __init__(self, config: TiCoConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.projector = projector(encoder.embed_dim, config.hidden_dim, config.output_dim)
        self.teacher = Teacher(encoder, self.projector, config=config)
        self.register_buffer("covariance", torch.zeros(config.output_dim, config.output_dim))
        self._fresh: Tensor | None = None  # from `forward` to the `after_step` after it

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two augmentations, stacked."""
        return stacked_views(sample, preprocess, generator, colours=self.config.colours)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The weighted sum of one view by the encoder and the other by the teacher."""
        slow_encoder, slow_projector = self.teacher.towers
        first = self.projector(encoded(encoder, {k: v[:, :1] for k, v in batch.items()})[:, 0])
        with torch.no_grad():
            other = encoded(slow_encoder, {k: v[:, 1:] for k, v in batch.items()})[:, 0]
            second = slow_projector(other)
        moved = moving_covariance(first, self.covariance, beta=self.config.beta)
        if self.training:
            self._fresh = moved
        invariance, spread = tico(first, second, moved)
        parts = {"invariance": invariance, "covariance": spread}
        return Losses(total=invariance + self.config.rho * spread, parts=parts)

    def start(self, encoder: Encoder) -> None:
        """The teacher begins with the same weights."""
        self.teacher.start(encoder, self.projector)

    @torch.no_grad()
    def after_step(self, encoder: Encoder) -> None:
        """Moves the teacher and the covariance."""
        self.teacher.update(encoder, self.projector)
        if self._fresh is not None:
            self.covariance.copy_(self._fresh)
            self._fresh = None


@torch.no_grad()
def moving_covariance(z: Tensor, covariance: Tensor, *, beta: float) -> Tensor:
    """C (D, D) after projections (n, D) of any length."""
    batch, z = GlobalBatch.of(z), normalize(z.float(), dim=1)
    return beta * covariance + (1 - beta) * batch.sum(z.T @ z) / sum(batch.sizes)


def tico(a: Tensor, b: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Both terms of two views (n, D) of any length, without weights."""
    a, b = normalize(a.float(), dim=1), normalize(b.float(), dim=1)
    return 1 - (a * b).sum(1).mean(), (a @ covariance * a).sum(1).mean()
