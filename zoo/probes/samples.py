"""Labelled shards, decoded.

Notation: N samples, K classes.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from zoo.data.listing import class_names
from zoo.data.shards import ShardSet
from zoo.errors import DataError
from zoo.modalities.contracts import Batch, Encoder, Sample, to_device, warn_of_cuts
from zoo.probes.score import Labels
from zoo.registry.build import build_codec

__all__ = ["Labelled", "RawLabel", "label_arrays", "several"]

RawLabel = int | tuple[int, ...]  # one class, or any number of them


class Labelled:
    """Samples with a label each (a `cls` member), or any number (`labels` in a `json` member)."""

    def __init__(
        self, encoder: Encoder, shards: str | Path, *, classes: Sequence[str] = ()
    ) -> None:
        """Opens the shards.

        Args:
            encoder: whose modality and preprocessing they are for.
            shards: as `zoo.pretrain` takes them.
            classes: names that stand for the numbers from 0 on; where the shards' manifest names
                classes too they are numbered in this way, and other ones after these.
        """
        self.encoder, self._shards = encoder, str(shards)
        self.data, self._codec = ShardSet(shards, strict=True), build_codec(encoder.modality)
        own = class_names(shards)
        self.classes = list(dict.fromkeys([*classes, *own])) if own else []
        self._numbers = [self.classes.index(name) for name in own]

    def __len__(self) -> int:
        return len(self.data)

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return next(self.encoder.parameters()).device

    def sample(self, index: int) -> Sample:
        """One decoded sample.

        Raises:
            DataError: it cannot be read; says where it is.
        """
        try:
            return self._codec.decode(self.data.read(index))
        except DataError as error:
            raise DataError(f"{self.data.where(index)}: {error}", code=error.code) from None

    def label(self, index: int, sample: Sample) -> RawLabel:
        """Its class or classes.

        Raises:
            DataError: it has none.
        """
        facts = sample.get("facts")
        if isinstance(facts, dict) and "labels" in facts:
            several = facts["labels"]
            if isinstance(several, list) and all(type(c) is int and c >= 0 for c in several):
                return tuple(several)
            raise DataError(f"{self.data.where(index)}: labels {several!r} are no list of classes")
        if "label" not in sample:
            raise DataError(
                f"{self.data.where(index)}: no label (a cls member) to probe with; zoo shards "
                "build makes one of a table's column (--label) or of folders (--label-from-folder)"
            )
        label = int(str(sample["label"]))
        if self._numbers and label >= len(self._numbers):
            raise DataError(
                f"{self.data.where(index)}: class {label}, the manifest names {len(self._numbers)}"
            )
        return self._numbers[label] if self._numbers else label

    @cached_property
    def labels(self) -> list[RawLabel]:
        """Of all samples, which are decoded for that, once."""
        return [self.label(index, self.sample(index)) for index in range(len(self))]

    def batches(self, indices: Sequence[int], size: int) -> Iterator[tuple[Batch, list[RawLabel]]]:
        """Preprocessed batches on the encoder's device, in this order, with their labels."""
        cut = 0
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            samples = [self.sample(index) for index in part]
            labels = [self.label(i, sample) for i, sample in zip(part, samples, strict=True)]
            batch = self.encoder.preprocess.collate(list(map(self.encoder.preprocess, samples)))
            cut += int(batch["cut"].sum()) if "cut" in batch else 0
            yield to_device(batch, self.device), labels
        warn_of_cuts(self._shards, cut, len(indices))


def label_arrays(*sets: Sequence[RawLabel]) -> list[Labels]:
    """Labels of several sets: (N,) each, or all (N, K) where any sample may have several."""
    if all(isinstance(label, int) for labels in sets for label in labels):
        return [np.array(labels, dtype=np.int64) for labels in sets]
    lists = [[several(one) for one in labels] for labels in sets]
    classes = 1 + max((c for labels in lists for one in labels for c in one), default=-1)
    arrays = [np.zeros((len(labels), classes), dtype=np.int64) for labels in lists]
    for array, labels in zip(arrays, lists, strict=True):
        for row, one in zip(array, labels, strict=True):
            row[list(one)] = 1
    return arrays


def several(label: RawLabel) -> tuple[int, ...]:
    """A label as any number of them."""
    return (label,) if isinstance(label, int) else label
