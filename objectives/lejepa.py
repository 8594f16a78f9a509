"""LeJEPA: views agree with the mean of the global ones, features are Gaussian (arXiv 2511.08544).

L = (1 - lambda) mean (z_v - mu)^2 + lambda mean_v SIGReg(z_v): no teacher, no stop-gradient. SIGReg
holds the characteristic function of features along random directions a against the Gaussian's,

    N integral w(t) |1/N sum_i exp(i t a . z_i) - phi(t)|^2 dt,    w = phi = exp(-t^2 / 2),

from -3 to 3 by the trapezoid rule (17 knots on the positive half, counted twice).

DEVIATION: every view is a global one; the preprocessing's crops have one size.

Notation: n samples of this process, N of all, V views, D width of a projection, R directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from zoo.modalities.contracts import Encoder
from zoo.objectives.contract import Losses
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig

__all__ = ["LeJEPA", "LeJEPAConfig", "lejepa", "sigreg"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeJEPAConfig(JointEmbeddingConfig):
    """The loss, the projector and the views."""

    weight: float = 0.05  # lambda
    directions: int = 1024
    views: int = 2
    hidden_dim: int = 2048
    output_dim: int = 128

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0 or self.views < 2 or self.directions < 1:
            raise ValueError("weight must lie between 0 and 1, views be at least 2, directions 1")


class LeJEPA(JointEmbedding):
    """Batches hold all views of each sample: every field is (B, V, ...)."""

    config_class = LeJEPAConfig

    def __init__(self, config: LeJEPAConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder, view_count=config.views)
        self.config = config

    def losses(self, views: Tensor) -> Losses:
        """The weighted sum; parts `prediction` and `sigreg` without weights."""
        drawn = torch.randn(views.shape[-1], self.config.directions, device=views.device)
        # All processes look along the directions of the first.
        directions = normalize(GlobalBatch.of(views[0]).stack(drawn)[0], dim=0)
        prediction, spread = lejepa(views, len(views), directions)
        weight = self.config.weight
        total = (1 - weight) * prediction + weight * spread
        return Losses(total=total, parts={"prediction": prediction, "sigreg": spread})


def lejepa(views: Tensor, global_views: int, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Both terms of (V, n, D) float32, the global views first; directions (D, R)."""
    mean = views[:global_views].mean(0)
    spread = torch.stack([sigreg(view, directions) for view in views])
    return (views - mean).square().mean(), spread.mean()


def sigreg(z: Tensor, directions: Tensor, *, knots: int = 17, most: float = 3.0) -> Tensor:
    """The mean statistic of (n, D) along directions (D, R), over the samples of all processes."""
    batch = GlobalBatch.of(z)
    total = sum(batch.sizes)
    t = torch.linspace(0, most, knots, device=z.device)
    normal = (-t.square() / 2).exp()
    weights = torch.full_like(t, 2 * most / (knots - 1)) * normal
    weights[[0, -1]] /= 2
    phase = (z @ directions).unsqueeze(-1) * t
    real, imaginary = batch.sum(torch.stack([phase.cos().sum(0), phase.sin().sum(0)])) / total
    errors = (real - normal).square() + imaginary.square()
    return (errors @ weights).mean() * total
