"""Supervised contrastive learning (arXiv 2004.11362): samples of one class find each other.

Authorship attribution (STAR, arXiv 2310.11081) is this with authors as classes. DEVIATION from its
code: vectors are of unit length along their width, not along the batch, and the scale is learned
and kept below 100, where the code keeps it above.

Notation: B samples of this process, D encoder width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import supervised_contrastive
from zoo.objectives.logit_scale import LogitScale

from zoo.errors import DataError

__all__ = ["SupervisedContrastive", "SupervisedContrastiveConfig", "labelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedContrastiveConfig:
    """The temperature and the projector."""

    temperature: float = 0.07
    learn_temperature: bool = True
    hidden_dim: int = 2048
    output_dim: int = 128

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1.0:
            raise ValueError(f"temperature must lie between 0.01 and 1, got {self.temperature}")


class SupervisedContrastive(Objective):
    """Batches are the encoder's with `label` (B,) or (B, 1), from samples that have a label."""

    config_class = SupervisedContrastiveConfig
    compares_samples = True

    def __init__(self, config: SupervisedContrastiveConfig, encoder: Encoder) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Linear(encoder.embed_dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.output_dim),
        )
        self.logit_scale = LogitScale(config.temperature, learned=config.learn_temperature)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """One augmentation, and the class.

        Raises:
            DataError: the sample has no label.
        """
        return labelled(sample, preprocess, generator)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' samples."""
        rest = {name: value for name, value in batch.items() if name != "label"}
        vectors = self.project(encoder, rest)
        total = supervised_contrastive(vectors, batch["label"].flatten(), self.logit_scale())
        return Losses(total=total)

    def project(self, encoder: Encoder, batch: Batch) -> Tensor:
        """(B, output_dim) of unit length, float32."""
        return normalize(self.projector(encoder(batch).pooled).float(), dim=-1)

    def count(self, batch: Batch) -> int:
        """Samples."""
        return len(batch["label"])

    def after_step(self, encoder: Encoder) -> None:
        """Keeps the temperature within its bounds."""
        self.logit_scale.clamp_()


def labelled(sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
    """One augmentation, and `label` (1,).

    Raises:
        DataError: the sample has no label.
    """
    label = sample.get("label")
    if not isinstance(label, int):
        raise DataError("a sample without a label: supervised contrast needs a `cls` member")
    return preprocess.augment(sample, generator) | {"label": torch.tensor([label])}
