"""Supervised contrastive learning (arXiv 2004.11362): samples of one class find each other.

Authorship attribution (STAR, arXiv 2310.11081) is this with authors as classes. DEVIATION from its
code: vectors are of unit length along their width, not along the batch, and the scale is learned
and kept below 100, where the code keeps it above.

Notation: B samples of this process, E width of vectors.
"""

from dataclasses import dataclass

from torch import Tensor
from zoo.modalities.contracts import Encoder
from zoo.objectives.contract import Losses
from zoo.objectives.contrastive_losses import supervised_contrastive
from zoo.objectives.labels import LabelledObjective
from zoo.objectives.logit_scale import LogitScale

__all__ = ["SupervisedContrastive", "SupervisedContrastiveConfig"]


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


class SupervisedContrastive(LabelledObjective):
    """Batches are the encoder's with `label` (B,) or (B, 1), from samples that have a label."""

    config_class = SupervisedContrastiveConfig

    def __init__(self, config: SupervisedContrastiveConfig, encoder: Encoder) -> None:
        super().__init__(encoder, hidden_dim=config.hidden_dim, output_dim=config.output_dim)
        self.logit_scale = LogitScale(config.temperature, learned=config.learn_temperature)

    def losses(self, z: Tensor, labels: Tensor) -> Losses:
        """The loss over all processes' samples."""
        return Losses(total=supervised_contrastive(z, labels, self.logit_scale()))

    def after_step(self, encoder: Encoder) -> None:
        """Keeps the temperature within its bounds."""
        self.logit_scale.clamp_()
