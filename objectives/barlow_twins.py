"""Barlow Twins: the correlation of two views' features is the unit matrix (arXiv 2103.03230).

L = sum_d (1 - C_dd)^2 + lambda sum_{d != e} C_de^2, C = 1/N sum_i z_i z'_i^T of features of mean 0
and variance 1 over the samples of all processes.

Notation: n samples of this process, N of all, D width of a projection.
"""

from dataclasses import dataclass

from torch import Tensor
from zoo.modalities.contracts import Encoder
from zoo.objectives.batch_norm import standardized
from zoo.objectives.contract import Losses
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig
from zoo.objectives.vicreg import off_diagonal

__all__ = ["BarlowTwins", "BarlowTwinsConfig", "barlow_twins"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarlowTwinsConfig(JointEmbeddingConfig):
    """The loss, the projector and the views."""

    redundancy: float = 5e-3  # lambda


class BarlowTwins(JointEmbedding):
    """Batches hold both views of each sample: every field is (B, 2, ...)."""

    config_class = BarlowTwinsConfig

    def __init__(self, config: BarlowTwinsConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.config = config

    def losses(self, views: Tensor) -> Losses:
        """The loss over all processes' samples."""
        first, second = views
        return Losses(total=barlow_twins(first, second, self.config.redundancy))


def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """The loss of two views (n, D) float32."""
    batch = GlobalBatch.of(a)
    own = standardized(a, batch).T @ standardized(b, batch)
    correlation = batch.sum(own) / sum(batch.sizes)
    on, off = (1 - correlation.diagonal()).square().sum(), off_diagonal(correlation).square().sum()
    return on + redundancy * off
