"""What objectives of labelled samples share: the class, and one vector of unit length a sample.

Notation: B samples of this process, E width of vectors.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample, SampleEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.projector import plain_projector

from zoo.errors import DataError

__all__ = ["LabelledObjective", "label_of"]


class LabelledObjective(Objective):
    """Batches are the encoder's with `label` (B,) or (B, 1), from samples that have a label."""

    requires: ClassVar[type[Encoder]] = SampleEncoder
    compares_samples = True

    def __init__(self, encoder: Encoder, *, hidden_dim: int, output_dim: int) -> None:
        super().__init__()
        self.projector = plain_projector(encoder.embed_dim, hidden_dim, output_dim)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """One augmentation, and the class.

        Raises:
            DataError: the sample has no label.
        """
        return preprocess.augment(sample, generator) | {"label": label_of(sample)}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The losses of vectors of unit length, float32, and their classes."""
        rest = {name: value for name, value in batch.items() if name != "label"}
        z = normalize(self.projector(encoder(rest).pooled).float(), dim=-1)
        return self.losses(z, batch["label"].flatten())

    @abstractmethod
    def losses(self, z: Tensor, labels: Tensor) -> Losses:
        """Of vectors (B, E) and classes (B,), over the samples of all processes."""

    def count(self, batch: Batch) -> int:
        """Samples."""
        return len(batch["label"])


def label_of(sample: Sample) -> Tensor:
    """(1,) the class.

    Raises:
        DataError: the sample has none.
    """
    label = sample.get("label")
    if not isinstance(label, int):
        raise DataError("a sample without a label: its `cls` member is missing")
    return torch.tensor([label])
