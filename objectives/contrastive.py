"""Contrastive learning of views: two augmentations of a sample find each other (arXiv 2002.05709).

One encoder and one projector see both views. The projector is the paper's formula, two layers with
a ReLU and no batch norm, so that a sample's features do not depend on its batch. With a queue it is
MoCo v2 (arXiv 2003.04297), with both views as queries.

Notation: B samples of this process, D encoder width.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, UniformEncoder
from zoo.objectives.content import content_id
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import decoupled, info_nce, nt_xent, sigmoid_loss
from zoo.objectives.logit_scale import LogitScale
from zoo.objectives.momentum_queue import MomentumQueue, QueueConfig
from zoo.objectives.negatives import PLAIN
from zoo.objectives.projector import plain_projector
from zoo.objectives.views import Colours, encoded, stacked_views

__all__ = ["ViewContrastive", "ViewContrastiveConfig"]


def _simclr() -> Colours:
    return Colours(jitter=(0.8, 0.8, 0.8, 0.2), blur_p=(0.5,), solarize_p=(0.0,))


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewContrastiveConfig(QueueConfig):
    """The loss, the projector and the queue."""

    # As SimCLR, CLIP or SigLIP has it; dcl: SimCLR's without the positive among the negatives.
    loss: Literal["nt_xent", "dcl", "info_nce", "sigmoid"] = "nt_xent"
    temperature: float = 0.1
    learn_temperature: bool = False  # from `temperature` on, between 0.01 and 1
    bias: float = -10.0  # sigmoid: where its learned bias begins
    hidden_dim: int = 2048
    output_dim: int = 128
    colours: Colours = field(default_factory=_simclr)

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1.0:
            raise ValueError(f"temperature must lie between 0.01 and 1, got {self.temperature}")
        self.check()
        if self.queue and self.loss != "info_nce":
            raise ValueError(f"a queue needs loss=info_nce, got {self.loss}")
        if self.negatives != PLAIN and self.loss == "sigmoid":
            raise ValueError("negatives are chosen for losses other than sigmoid")


class ViewContrastive(Objective):
    """Batches hold both views of each sample: every field is (B, 2, ...).

    Where there is a queue, also `content_ids` (B, 1).
    """

    requires: ClassVar[type[Encoder]] = UniformEncoder
    config_class = ViewContrastiveConfig
    compares_samples = True

    def __init__(self, config: ViewContrastiveConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.projector = plain_projector(encoder.embed_dim, config.hidden_dim, config.output_dim)
        self.logit_scale = LogitScale(config.temperature, learned=config.learn_temperature)
        if config.loss == "sigmoid":
            self.bias = nn.Parameter(torch.tensor([config.bias]))
        self.queue: MomentumQueue | None = None
        if config.queue:
            self.queue = MomentumQueue(
                encoder, self.projector, width=config.output_dim, ids=1, config=config
            )

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two augmentations, stacked."""
        views = stacked_views(sample, preprocess, generator, colours=self.config.colours)
        if self.queue is None:
            return views
        return views | {"content_ids": torch.tensor([content_id(*sample.values())])}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' samples; metric `similarity` of the two views."""
        views = {name: value for name, value in batch.items() if name != "content_ids"}
        vectors = project(self.projector, encoder, views)
        (a, b), scale = vectors.unbind(1), self.logit_scale()
        negatives = self.config.negatives
        match self.config.loss:
            case "info_nce" if self.queue is not None:
                with torch.no_grad():
                    keys = project(self.queue.towers[1], self.queue.towers[0], views)
                both = vectors.transpose(0, 1), keys.transpose(0, 1)
                total = self.queue.loss(*both, scale, batch["content_ids"])
            case "nt_xent":
                total = nt_xent(a, b, scale, negatives)
            case "dcl":
                total = decoupled(a, b, scale, negatives)
            case "info_nce":
                total = info_nce(a, b, scale, negatives=negatives)
            case "sigmoid":
                total = sigmoid_loss(a, b, scale, self.bias)
        metrics = {"similarity": (a * b).sum(1).mean()}
        if self.config.learn_temperature:
            metrics["temperature"] = 1 / scale.squeeze()
        return Losses(total=total, metrics=metrics)

    def start(self, encoder: Encoder) -> None:
        """The slow copy begins with the same weights."""
        if self.queue is not None:
            self.queue.towers.follow(encoder, self.projector)

    def after_step(self, encoder: Encoder) -> None:
        """Keeps the temperature within its bounds; moves the slow copy and the queue."""
        self.logit_scale.clamp_()
        if self.queue is not None:
            self.queue.update(encoder, self.projector)


def project(projector: nn.Module, encoder: nn.Module, batch: Batch) -> Tensor:
    """(B, 2, output_dim) of unit length, float32, of two views."""
    return normalize(projector(encoded(encoder, batch)).float(), dim=-1)
