"""VoCo: tell where a crop of a volume lies by its likeness to a grid of base crops (2410.09890).

Numbers match Luffy03/Large-Scale-Medical. The encoder is shared; only the projector has a teacher,
its moving average. The reference moves the teacher when a step begins, towards the student as the
step before left it, which is the same as when a step ends; a new teacher has been moved once.

Volumes are compared within a micro-batch: the batch norm of the projectors mixes its crops, and
each volume's crops meet the base crops of the next. So another number of processes or micro-batches
is another task, as it is in the reference with another number of GPUs.

DEVIATION: `code_v1` and `paper` are variants of the loss; the first version's teacher, which was a
whole network, is the projector's here as well. Dropout is of elements and off in evaluation; the
reference drops whole embeddings ("row"), in evaluation too.

Notation: B volumes, C channels, X, Y, Z voxels, R random and K base crops of each, M = R + K,
D encoder width, E width of a projection.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.volumes import CropEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.pictures import share_pictures, side_by_side, slice_pictures
from zoo.objectives.voco_losses import Projected, Variant, similarity, voco_losses
from zoo.objectives.volume_crops import (
    CropAugment,
    base_starts,
    cut,
    draw_crops,
    overlaps,
    random_starts,
)

from zoo.errors import UsageError

__all__ = ["VoCo", "VoCoConfig", "projector"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VoCoConfig:
    """The pretext task; volumes must be multiples of `crop_size` along each axis."""

    variant: Variant = "code_v2"
    crop_size: int = 64  # voxels
    input_size: int | None = None  # crops are resized to; the first version had 96 -> 64
    random_crops: int = 2  # of a volume; 4 in the omni-supervised recipe
    augment: CropAugment = field(default_factory=CropAugment)
    hidden_dim: int = 1024
    output_dim: int = 1024
    drop: float = 0.2  # of the student's input; the first version had none
    embed_drop: Literal["element", "row"] = "element"  # row: the embeddings of whole crops
    momentum: float = 0.9  # of the teacher

    def __post_init__(self) -> None:
        if self.crop_size < 2 or self.random_crops < 1:
            raise ValueError("crop_size must be at least 2 and random_crops at least 1")
        if not 0.0 <= self.drop < 1.0 or not 0.0 <= self.momentum <= 1.0:
            raise ValueError("drop and momentum must lie between 0 and 1")


class VoCo(Objective):
    """Batches hold `volume` (B, C, X, Y, Z), and from `views` `crops`, `shifts` and `labels`."""

    requires: ClassVar[type[Encoder]] = CropEncoder
    config_class = VoCoConfig

    def __init__(self, config: VoCoConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.drop = (nn.Dropout if config.embed_drop == "element" else nn.Dropout1d)(config.drop)
        self.student = projector(encoder.dim, config.hidden_dim, config.output_dim)
        self.teacher = projector(encoder.dim, config.hidden_dim, config.output_dim)
        self.teacher.requires_grad_(False)
        self.after_step()

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """The volume, what to cut out of it, R random crops first, and `labels` (R, K)."""
        config, volume = self.config, sample["volume"]
        shape = tuple(volume.shape[1:])
        bases = base_starts(shape, config.crop_size)
        starts = random_starts(shape, config.crop_size, config.random_crops, generator)
        crops, shifts = draw_crops(torch.cat([starts, bases]), config.augment, generator)
        labels = overlaps(starts, bases, config.crop_size).float()
        return {"volume": volume, "crops": crops, "shifts": shifts, "labels": labels}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The terms of `variant`; metric `overlap_error` is the mean of |y - p| of `intra`.

        Raises:
            UsageError: one volume alone, where volumes are to be compared.
        """
        if len(batch["volume"]) < 2 and self.config.variant != "code_v1":
            raise UsageError(
                "voco compares volumes with each other, and this micro-batch holds one: raise "
                "train.batch_size, lower train.accumulate, or take objective.variant=code_v1"
            )
        student, teacher = self.project(self.embed(encoder, batch), len(batch["volume"]))
        labels = batch["labels"]
        parts = voco_losses(student, teacher, labels, variant=self.config.variant)
        with torch.no_grad():
            error = (labels - similarity(student.crops, teacher.bases)).abs().mean()
        total = torch.stack([*parts.values()]).sum()
        return Losses(total=total, parts=parts, metrics={"overlap_error": error})

    def pictures(self, encoder: Encoder, batch: Batch) -> list[tuple[str, Tensor]]:
        """Side by side: a crop of each volume on the grid, where it lies, and what was found."""
        crops, size = batch["crops"][..., :3], self.config.crop_size
        student, teacher = self.project(self.embed(encoder, batch), len(crops))
        where = (crops[:, 0], crops[0, self.config.random_crops :], size)
        rows = (
            ("a crop among the base crops", slice_pictures(batch["volume"], *where)),
            ("its share in each", share_pictures(batch["labels"][:, 0], *where)),
            (
                "its likeness to each",
                share_pictures(similarity(student.crops, teacher.bases)[:, 0], *where),
            ),
        )
        return [(title, side_by_side(images)) for title, images in rows]

    def embed(self, encoder: Encoder, batch: Batch) -> Tensor:
        """(B * M, D) of all crops; how many go through the encoder at once is its own matter."""
        crops = cut(batch, self.config.crop_size)
        if self.config.input_size is not None:
            crops = interpolate(crops, size=(self.config.input_size,) * 3, mode="trilinear")
        return encoder({"volume": crops}).pooled

    def project(self, embedding: Tensor, volumes: int) -> tuple[Projected, Projected]:
        """(B * M, D) -> what student and teacher make of it, float32."""
        student = self.student(self.drop(embedding))
        with torch.no_grad():
            teacher = self.teacher(embedding)
        return self._split(student, volumes), self._split(teacher, volumes)

    @torch.no_grad()
    def after_step(self) -> None:
        """Moves the teacher towards the student."""
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for teacher, student in pairs:
            teacher.lerp_(student, 1 - self.config.momentum)

    def _split(self, projected: Tensor, volumes: int) -> Projected:
        rows = projected.float().unflatten(0, (volumes, -1))
        random = self.config.random_crops
        return Projected(rows[:, :random], rows[:, random:])


def projector(dim: int, hidden: int, out: int) -> nn.Sequential:
    """Three layers with a batch norm that learns nothing and always takes the batch as it is."""

    def layer(inputs: int, outputs: int) -> nn.Sequential:
        norm = nn.BatchNorm1d(outputs, affine=False, track_running_stats=False)
        return nn.Sequential(nn.Linear(inputs, outputs), norm, nn.ReLU())

    return nn.Sequential(
        OrderedDict(
            layer1=layer(dim, hidden),
            layer2=layer(hidden, hidden),
            layer3=nn.Sequential(nn.Linear(hidden, out)),
        )
    )
