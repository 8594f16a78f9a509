"""What an objective is: the pretext task, with its own heads, its own loss and its own views."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample

__all__ = ["Losses", "Objective"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """`total` is minimised; `parts` are the terms it is made of; `metrics` are only watched."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module, ABC):
    """Owns the pretext task: masks or views, heads, loss. Made for one encoder's widths."""

    requires: ClassVar[type[Encoder]] = Encoder  # the kind of encoder that it can train
    config_class: ClassVar[type]  # frozen dataclass: the options of the task
    compares_samples: ClassVar[bool] = False  # those of a step, all at once: no micro-batches

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """What training sees of a decoded sample: by default `views` of one augmentation.

        Runs in the loader's workers, and is as pure as `views`.
        """
        return self.views(preprocess.augment(sample, generator), generator)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Turns a preprocessed sample into what training sees; runs in the loader's workers.

        Pure: all chance comes from `generator`, which is seeded by the sample's global position, so
        the same sample gets the same mask whichever worker or rank reads it.
        """
        return sample

    @abstractmethod
    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The losses of a batch; means over `count(batch)` targets."""

    def count(self, batch: Batch) -> int:
        """How many targets `total` is the mean of: what micro-batches are weighted by."""
        return len(next(iter(batch.values())))

    def pictures(self, encoder: Encoder, batch: Batch) -> list[tuple[str, Tensor]]:
        """What the task looks like on a batch, for people: (title, uint8 (H, W, 1 or 3)) each."""
        return []

    def teachers(self) -> Mapping[str, Encoder]:
        """Encoders that begin a run with weights of their own, by where those are; none mostly."""
        return {}

    def start(self, encoder: Encoder) -> None:
        """Before the first step of a run, when encoder and heads have what they begin with."""

    def after_step(self, encoder: Encoder) -> None:
        """After an update: EMA teachers, queues. The only place where training changes state.

        State is in buffers and frozen parameters, so that checkpoints hold it and an update that
        was dropped changes none of it.
        """
