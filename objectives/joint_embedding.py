"""What objectives of views without negatives and teacher share: a projector sees each view.

Notation: B samples of this process, V views, D width of a projection.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, UniformEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.projector import projector
from zoo.objectives.views import Colours, encoded, stacked_views

__all__ = ["JointEmbedding", "JointEmbeddingConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JointEmbeddingConfig:
    """The projector and the views."""

    hidden_dim: int = 8192
    output_dim: int = 8192
    colours: Colours = field(default_factory=Colours)


class JointEmbedding(Objective):
    """Batches hold all views of each sample: every field is (B, V, ...)."""

    requires: ClassVar[type[Encoder]] = UniformEncoder
    config_class: ClassVar[type] = JointEmbeddingConfig
    compares_samples = True

    def __init__(
        self, config: JointEmbeddingConfig, encoder: Encoder, *, view_count: int = 2
    ) -> None:
        super().__init__()
        self.view_count, self.colours = view_count, config.colours
        hidden = config.hidden_dim
        self.projector = projector(encoder.embed_dim, hidden, hidden, config.output_dim)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Augmentations, stacked."""
        count, colours = self.view_count, self.colours
        return stacked_views(sample, preprocess, generator, count=count, colours=colours)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The losses of all projections; batch norms take each view by itself."""
        views = encoded(encoder, batch).unbind(1)
        return self.losses(torch.stack([self.projector(view).float() for view in views]))

    @abstractmethod
    def losses(self, views: Tensor) -> Losses:
        """Of projections (V, B, D) float32, over the samples of all processes."""
