"""Self-distillation for further pretraining (arXiv 2210.02871): MAE beside a further-trained self.

A model theta_0 that was pretrained on one kind of images is to serve another, of which there are
few. First it is pretrained further on those by `mae`, which makes the teacher. Then a student
begins with theta_0 again and minimises

    L = L_MAE + weight / B sum_i |f(x_i) - f_teacher(x_i)|^2,

f the pooled features of the whole image (its class token, in the paper), the teacher frozen:

    zoo pretrain mae-base --data D --out runs/teacher train.init=W
    zoo pretrain mae-base --data D --out runs/student train.init=W objective.name=self_distillation
        objective.teacher=runs/teacher

The paper trains each for 20,000 steps of 64 images, by AdamW at 1.5e-4 that falls linearly without
warm-up, with weight decay 0.01.

Notation: B samples of this process, D encoder width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from zoo.modalities.contracts import Batch, Encoder
from zoo.objectives.contract import Losses
from zoo.objectives.mae import MAE, MAEConfig, unstacked
from zoo.objectives.teacher import SlowCopy

__all__ = ["SelfDistillation", "SelfDistillationConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfDistillationConfig(MAEConfig):
    """MAE's options, and the teacher."""

    teacher: str  # weights of the model that was pretrained further: a run, an export or a file
    weight: float = 1.0

    def __post_init__(self) -> None:
        MAEConfig.__post_init__(self)
        if self.weight < 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")


class SelfDistillation(MAE):
    """Batches are those of `MAE`."""

    config_class: ClassVar[type] = SelfDistillationConfig

    def __init__(self, config: SelfDistillationConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.source, self.weight = config.teacher, config.weight
        self.teacher = SlowCopy(encoder)

    def teachers(self) -> Mapping[str, Encoder]:
        """The teacher, by the place of its weights."""
        [teacher] = self.teacher
        assert isinstance(teacher, Encoder)
        return {self.source: teacher}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The weighted sum; parts `mae` and `distance`, the latter without weight."""
        batch = unstacked(batch)
        own = super().forward(encoder, batch).total
        with torch.no_grad():
            wanted = self.teacher[0](batch).pooled.float()
        distance = (encoder(batch).pooled.float() - wanted).square().sum(1).mean()
        return Losses(total=own + self.weight * distance, parts={"mae": own, "distance": distance})
