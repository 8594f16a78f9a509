"""Volumes with their labels, whole and as an encoder wants them.

Notation: C sequences, X, Y, Z voxels, K structures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError
from zoo.modalities.contracts import Encoder
from zoo.modalities.volume.preprocess import VolumePreprocess
from zoo.modalities.volume.resample import resample
from zoo.modalities.volume.transforms import foreground_box, orient
from zoo.modalities.volume.volume import LABELS, Volume
from zoo.registry.build import build_codec

__all__ = ["LabelledVolumes", "Structures", "are_exclusive"]

Structures = Mapping[str, tuple[int, ...]]  # name -> the classes that it consists of


def are_exclusive(structures: Structures) -> bool:
    """Whether no class belongs to two structures."""
    classes = list(chain(*structures.values()))
    return len(set(classes)) == len(classes)


class LabelledVolumes:
    """Shards of volumes that have the sequence `seg`."""

    def __init__(
        self,
        encoder: Encoder,
        shards: str | Path,
        structures: Structures,
        *,
        chosen: Sequence[int] | None = None,
    ) -> None:
        """Opens the shards.

        Args:
            encoder: whose preprocessing they are for.
            shards: as `zoo.pretrain` takes them.
            structures: what is to be found.
            chosen: which of the volumes; by default all.

        Raises:
            UsageError: the encoder is not one of volumes, or there are no structures.
        """
        if not isinstance(encoder.preprocess, VolumePreprocess):
            raise UsageError(
                f"segmentation needs an encoder of volumes, this is {encoder.modality}"
            )
        if not structures or any(min(one, default=0) < 1 for one in structures.values()):
            raise UsageError(f"structures {dict(structures)}: each has classes, from 1 on")
        self.encoder, self.structures = encoder, structures
        self._config = encoder.preprocess.config
        self.data, self._codec = ShardSet(shards, strict=True), build_codec("volume")
        self._chosen = range(len(self.data)) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def device(self) -> torch.device:
        """The encoder's."""
        return next(self.encoder.parameters()).device

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """A whole volume, normalised, and what is where in it.

        Returns:
            float32 (C, X, Y, Z), and uint8: (1, X, Y, Z) numbers of structures from 1 on, 0 for
            none, where they are exclusive; else (K, X, Y, Z) zeros and ones.

        Raises:
            DataError: it cannot be read, or has no labels; says where it is.
        """
        index = self._chosen[index]
        try:
            sample = self._codec.decode(self.data.read(index))
            volume = cast("Volume", sample["volume"])
            if LABELS not in volume.sequences:
                raise DataError(f"no labels (a member {LABELS}.b2nd)", code="MISSING_PART")
            return self._whole(volume)
        except DataError as error:
            raise DataError(f"{self.data.where(index)}: {error}", code=error.code) from None

    def _whole(self, volume: Volume) -> tuple[Tensor, Tensor]:
        config = self._config
        volume = resample(orient(volume), config.spacing)
        size = volume.shape
        if config.crop_foreground:
            low = config.window[0] if config.intensity == "window" else 0.0
            x, y, z = (line.stop - line.start for line in foreground_box(volume, low))
            size = x, y, z
        batch = VolumePreprocess(replace(config, size=size, fit="centre"))({"volume": volume})
        return batch["volume"], self._found(batch[LABELS])

    def _found(self, classes: Tensor) -> Tensor:
        masks = [
            torch.stack([classes == number for number in one]).any(dim=0)
            for one in self.structures.values()
        ]
        if not are_exclusive(self.structures):
            return torch.cat(masks).byte()
        numbers = torch.zeros_like(classes, dtype=torch.uint8)
        for number, mask in enumerate(masks, start=1):
            numbers[mask] = number
        return numbers
