"""BYOL: predict what a slow teacher makes of the other view; no negatives (arXiv 2006.07733).

L = sum over both directions of 2 - 2 cos(q(z_i), z'_j), z' the teacher's projection of the other
view. Batch norms take each view by itself, as the paper's code does, over all processes.

Notation: B samples of this process, D encoder width, E width of a projection.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, UniformEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.projector import projector
from zoo.objectives.teacher import Teacher, TeacherConfig
from zoo.objectives.views import Colours, encoded, stacked_views

__all__ = ["BYOL", "BYOLConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BYOLConfig(TeacherConfig):
    """The heads, the teacher and the views."""

    hidden_dim: int = 4096
    output_dim: int = 256
    colours: Colours = field(default_factory=Colours)

    def __post_init__(self) -> None:
        self.check()


class BYOL(Objective):
    """Batches hold both views of each sample: every field is (B, 2, ...)."""

    requires: ClassVar[type[Encoder]] = UniformEncoder
    config_class = BYOLConfig
    compares_samples = True

    def __init__(self, config: BYOLConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        hidden, width = config.hidden_dim, config.output_dim
        self.projector = projector(encoder.embed_dim, hidden, width)
        self.predictor = projector(width, hidden, width)
        self.teacher = Teacher(encoder, self.projector, config=config)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two augmentations, stacked."""
        return stacked_views(sample, preprocess, generator, colours=self.config.colours)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The sum of both directions; metric `similarity` of prediction and target."""
        first, second = _projected(encoder, self.projector, batch)
        slow_encoder, slow_projector = self.teacher.towers
        with torch.no_grad():
            targets = _projected(slow_encoder, slow_projector, batch)
        predictions = self.predictor(first), self.predictor(second)
        found = zip(predictions, reversed(targets), strict=True)
        likeness = torch.stack([cosine_similarity(q, z, dim=1) for q, z in found]).mean()
        return Losses(total=4 - 4 * likeness, metrics={"similarity": likeness})

    def start(self, encoder: Encoder) -> None:
        """The teacher begins with the same weights."""
        self.teacher.start(encoder, self.projector)

    def after_step(self, encoder: Encoder) -> None:
        """Moves the teacher."""
        self.teacher.update(encoder, self.projector)


def _projected(encoder: nn.Module, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """(B, E) of each view."""
    first, second = encoded(encoder, batch).unbind(1)
    return head(first), head(second)
