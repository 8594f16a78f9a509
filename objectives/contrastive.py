"""Contrastive learning of views: two augmentations of a sample find each other (arXiv 2002.05709).

One encoder and one projector see both views. The projector is the paper's formula, two layers with
a ReLU and no batch norm, so that a sample's features do not depend on its batch.

Notation: B samples of this process, D encoder width.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, UniformEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import info_nce, nt_xent, sigmoid_loss
from zoo.objectives.logit_scale import LogitScale

__all__ = ["ViewContrastive", "ViewContrastiveConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewContrastiveConfig:
    """The loss and the projector."""

    loss: Literal["nt_xent", "info_nce", "sigmoid"] = "nt_xent"  # as SimCLR, CLIP or SigLIP has it
    temperature: float = 0.1
    learn_temperature: bool = False  # from `temperature` on, between 0.01 and 1
    bias: float = -10.0  # sigmoid: where its learned bias begins
    hidden_dim: int = 2048
    output_dim: int = 128

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1.0:
            raise ValueError(f"temperature must lie between 0.01 and 1, got {self.temperature}")


class ViewContrastive(Objective):
    """Batches hold both views of each sample: every field is (B, 2, ...)."""

    requires: ClassVar[type[Encoder]] = UniformEncoder
    config_class = ViewContrastiveConfig
    compares_samples = True

    def __init__(self, config: ViewContrastiveConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.projector = nn.Sequential(
            nn.Linear(encoder.dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.output_dim),
        )
        self.logit_scale = LogitScale(config.temperature, learned=config.learn_temperature)
        if config.loss == "sigmoid":
            self.bias = nn.Parameter(torch.tensor([config.bias]))

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two augmentations, stacked."""
        first, second = (preprocess.augment(sample, generator) for _ in range(2))
        return {name: torch.stack((first[name], second[name])) for name in first}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' samples; metric `similarity` of the two views."""
        a, b = self.project(encoder, batch).unbind(1)
        scale = self.logit_scale()
        match self.config.loss:
            case "nt_xent":
                total = nt_xent(a, b, scale)
            case "info_nce":
                total = info_nce(a, b, scale)
            case "sigmoid":
                total = sigmoid_loss(a, b, scale, self.bias)
        metrics = {"similarity": (a * b).sum(1).mean()}
        if self.config.learn_temperature:
            metrics["temperature"] = 1 / scale.squeeze()
        return Losses(total=total, metrics=metrics)

    def project(self, encoder: Encoder, batch: Batch) -> Tensor:
        """(B, 2, output_dim) of unit length, float32."""
        views = {name: value.flatten(0, 1) for name, value in batch.items()}
        projected = self.projector(encoder(views).pooled)
        return normalize(projected.float(), dim=-1).unflatten(0, (-1, 2))

    def after_step(self) -> None:
        """Keeps the temperature within its bounds."""
        self.logit_scale.clamp_()
