"""VICReg: views alike, dimensions that vary and know nothing of each other (arXiv 2105.04906).

L = 25 mean (z - z')^2 + 25/2 [v(z) + v(z')] + c(z) + c(z'), with the hinge v = mean_d max(0, 1 -
sqrt(var z_d + 1e-4)) and c = 1/D sum of the squared off-diagonal elements of the covariance.

Notation: n samples of this process, N of all, D width of a projection.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, relu
from zoo.modalities.contracts import Encoder
from zoo.objectives.contract import Losses
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig

__all__ = ["VICReg", "VICRegConfig", "off_diagonal", "variance_covariance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VICRegConfig(JointEmbeddingConfig):
    """The weights of the terms, the projector and the views."""

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0


class VICReg(JointEmbedding):
    """Batches hold both views of each sample: every field is (B, 2, ...)."""

    config_class = VICRegConfig

    def __init__(self, config: VICRegConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.config = config

    def losses(self, views: Tensor) -> Losses:
        """The weighted sum; parts `invariance`, `variance` and `covariance` without weights."""
        spread = [variance_covariance(view) for view in views]
        variance, covariance = (torch.stack(terms).sum() for terms in zip(*spread, strict=True))
        parts = {
            "invariance": mse_loss(*views),
            "variance": variance / 2,
            "covariance": covariance,
        }
        weights = self.config.invariance, self.config.variance, self.config.covariance
        weighed = [weight * part for weight, part in zip(weights, parts.values(), strict=True)]
        return Losses(total=torch.stack(weighed).sum(), parts=parts)


def variance_covariance(z: Tensor, *, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Hinge v and covariance c of (n, D) float32, over the samples of all processes."""
    batch = GlobalBatch.of(z)
    total = sum(batch.sizes)
    centred = z - batch.sum(z.sum(0)) / total
    covariance = batch.sum(centred.T @ centred) / max(1, total - 1)
    hinge = relu(1 - (covariance.diagonal() + eps).sqrt()).mean()
    return hinge, off_diagonal(covariance).square().sum() / z.shape[1]


def off_diagonal(matrix: Tensor) -> Tensor:
    """(D, D) with zeros on its diagonal."""
    return matrix - matrix.diagonal().diag()
