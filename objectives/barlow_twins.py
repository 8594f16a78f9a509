"""Barlow Twins: the correlation of two views' features is the unit matrix (arXiv 2103.03230).

L = sum_d (1 - C_dd)^2 + lambda sum_{d != e} C_de^2, C = 1/N sum_i z_i z'_i^T of features of mean 0
and variance 1 over the samples of all processes.

Notation: n samples of this process, N of all, D width of a projection.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, UniformEncoder
from zoo.objectives.batch_norm import standardized
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.projector import projector
from zoo.objectives.vicreg import off_diagonal
from zoo.objectives.views import Colours, encoded, stacked_views

__all__ = ["BarlowTwins", "BarlowTwinsConfig", "barlow_twins"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarlowTwinsConfig:
    """The loss, the projector and the views."""

    redundancy: float = 5e-3  # lambda
    hidden_dim: int = 8192
    output_dim: int = 8192
    colours: Colours = field(default_factory=Colours)


class BarlowTwins(Objective):
    """Batches hold both views of each sample: every field is (B, 2, ...)."""

    requires: ClassVar[type[Encoder]] = UniformEncoder
    config_class = BarlowTwinsConfig
    compares_samples = True

    def __init__(self, config: BarlowTwinsConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_dim
        self.projector = projector(encoder.embed_dim, hidden, hidden, config.output_dim)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two augmentations, stacked."""
        return stacked_views(sample, preprocess, generator, colours=self.config.colours)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' samples."""
        first, second = (self.projector(view).float() for view in encoded(encoder, batch).unbind(1))
        return Losses(total=barlow_twins(first, second, self.config.redundancy))


def barlow_twins(a: Tensor, b: Tensor, redundancy: float) -> Tensor:
    """The loss of two views (n, D) float32."""
    batch = GlobalBatch.of(a)
    own = standardized(a, batch).T @ standardized(b, batch)
    correlation = batch.sum(own) / sum(batch.sizes)
    on, off = (1 - correlation.diagonal()).square().sum(), off_diagonal(correlation).square().sum()
    return on + redundancy * off
