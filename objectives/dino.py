"""DINO: every crop finds the prototypes that a slow teacher gives to the others (arXiv 2104.14294).

L = mean over teacher views g and student views v != g of -sum_k q_gk log p_vk, q = softmax((t -
centre) / tau_t), p = softmax(s / tau_s). Numbers match facebookresearch/dino; its schedules by
epochs are by updates here. DINOv2 (arXiv 2304.07193) adds 0.1 times KoLeo of each global view.

Notation: B samples of this process, G = 2 global views, V views with the small ones, K prototypes.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.modalities.image_patches import ImagePatchEncoder, ImagePreprocess
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.crops import CropsConfig, crop_features, multi_crop
from zoo.objectives.koleo import koleo
from zoo.objectives.prototypes import Centre, PrototypeHead, warmed_up
from zoo.objectives.teacher import Teacher, TeacherConfig
from zoo.objectives.views import Colours, encoded

__all__ = ["DINO", "DINOConfig", "view_cross_entropy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DINOConfig(TeacherConfig):
    """The views, the teacher and the head."""

    crops: CropsConfig = field(default_factory=CropsConfig)
    colours: Colours = field(default_factory=Colours)
    student_temp: float = 0.1
    teacher_temp: float = 0.04
    warmup_teacher_temp: float = 0.04  # where it begins
    warmup_teacher_temp_steps: int = 0  # updates until it is `teacher_temp`
    center_momentum: float = 0.9
    freeze_last_layer: int = 0  # updates before prototypes learn; an epoch in the paper
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    output_dim: int = 65_536  # K
    koleo_weight: float = 0.0  # of the term that keeps features of a global view apart

    def __post_init__(self) -> None:
        self.check()
        if min(self.student_temp, self.teacher_temp, self.warmup_teacher_temp) <= 0:
            raise ValueError("temperatures must be positive")


class DINO(Objective):
    """Batches hold `image` (B, 2, C, S, S) and, with small crops, `local` (B, L, C, s, s)."""

    requires: ClassVar[type[Encoder]] = ImagePatchEncoder
    config_class = DINOConfig
    compares_samples = True  # by the centre

    def __init__(self, config: DINOConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, ImagePatchEncoder)
        config.crops.check(encoder)
        self.config = config
        self.head = PrototypeHead(
            encoder.embed_dim,
            hidden=config.hidden_dim,
            bottleneck=config.bottleneck_dim,
            prototypes=config.output_dim,
        )
        self.centre = Centre(config.output_dim, config.center_momentum)
        self.teacher = Teacher(encoder, self.head, config=config)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Two global crops and the small ones."""
        assert isinstance(preprocess, ImagePreprocess)
        crops, colours = self.config.crops, self.config.colours
        return multi_crop(sample, preprocess, generator, crops=crops, colours=colours)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The mean over pairs; metric `entropy` of the teacher's shares, in nats."""
        assert isinstance(encoder, ImagePatchEncoder)
        images = {"image": batch["image"]}
        features = encoded(encoder, images)
        if "local" in batch:
            crops = crop_features(encoder, batch["local"].flatten(0, 1))
            features = torch.cat([features, crops.unflatten(0, (len(features), -1))], dim=1)
        learns = (self.teacher.updates >= self.config.freeze_last_layer).float()
        student = self.head(features, learns).transpose(0, 1)
        slow_encoder, slow_head = self.teacher.towers
        with torch.no_grad():
            outputs = slow_head(encoded(slow_encoder, images)).transpose(0, 1)
        shares = self.centre.shares(outputs, self.temperature())
        parts = {"view": view_cross_entropy(shares, student / self.config.student_temp)}
        parts |= self.apart(features)
        total = parts["view"] + self.config.koleo_weight * parts.get("koleo", 0.0)
        entropy = torch.special.entr(shares).sum(-1).mean()
        return Losses(total=total, parts=parts, metrics={"entropy": entropy})

    def apart(self, features: Tensor) -> dict[str, Tensor]:
        """Part `koleo` of the global views of features (B, V, D), without weight, if it has one."""
        if not self.config.koleo_weight:
            return {}
        return {"koleo": torch.stack([koleo(view) for view in features[:, :2].unbind(1)]).sum()}

    def temperature(self) -> Tensor:
        """() of the teacher, now."""
        config = self.config
        steps = config.warmup_teacher_temp_steps
        first = config.warmup_teacher_temp if steps else config.teacher_temp
        return warmed_up(self.teacher.updates, first, config.teacher_temp, steps)

    def start(self, encoder: Encoder) -> None:
        """The teacher begins with the same weights."""
        self.teacher.start(encoder, self.head)

    def after_step(self, encoder: Encoder) -> None:
        """Moves the teacher and the centre."""
        self.teacher.update(encoder, self.head)
        self.centre.update()


def view_cross_entropy(shares: Tensor, logits: Tensor) -> Tensor:
    """The mean over pairs of different views.

    Args:
        shares: (G, B, K) of the teacher, for the first G views.
        logits: (V, B, K) of the student.
    """
    log_shares = logits.float().log_softmax(-1)
    pairs = -torch.einsum("gbk,vbk->gv", shares, log_shares) / shares.shape[1]
    return pairs[~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)].mean()
