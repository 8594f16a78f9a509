"""Volumes -> windowed crops of the encoder's size.

Out of shards only the chunks are decoded that a crop touches: the box of the foreground follows
from what is stored beside the voxels.

Notation: B volumes, C sequences, X, Y, Z voxels (RAS), S the size of a crop.
"""

import warnings
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Preprocess, Raw, Sample
from zoo.modalities.volume.read import open_volume
from zoo.modalities.volume.resample import resample
from zoo.modalities.volume.transforms import (
    centre_box,
    foreground_box,
    orient,
    pad_to,
    resize,
    standardise,
    window,
)
from zoo.modalities.volume.volume import LABELS, Box, Volume, know_modality

from zoo.errors import DataError

__all__ = ["VolumePreprocess", "VolumePreprocessConfig"]

_SPACING = 1e-2  # mm: closer than this needs no resampling


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumePreprocessConfig:
    """Constants that belong to a set of weights."""

    modality: str = "ct"  # another one is refused
    sequences: tuple[str, ...] = ("ct",)  # C, in this order
    spacing: tuple[float, float, float] = (1.5, 1.5, 1.5)  # mm
    intensity: Literal["window", "z-score"] = "window"
    window: tuple[float, float] = (-175.0, 250.0)  # becomes 0 ... 1
    crop_foreground: bool = True  # what lies above the window's lower end, or above 0
    size: tuple[int, int, int] = (192, 192, 64)  # S
    # How a volume becomes that large. In training "random" takes a crop from anywhere.
    fit: Literal["random", "centre", "resize"] = "random"
    min_size: tuple[int, int, int] = (64, 64, 64)  # padded to before it is resized
    # Training only: chance of a mirror image along each axis, and by how much every sequence is
    # scaled and shifted, at most and either way.
    flip: float = 0.0
    scale_intensity: float = 0.0
    shift_intensity: float = 0.0

    def __post_init__(self) -> None:
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window {self.window} must rise")
        if min(*self.spacing, *self.size) <= 0 or not self.sequences:
            raise ValueError("spacing and size must be positive, and sequences named")


class VolumePreprocess(Preprocess):
    """Path, bytes, array, `Volume` or sample -> {"volume": float32 (C, *S), "present": bool (C,)}.

    A sequence that a volume lacks is all zeros and not `present`; one at least there must be. Where
    there are labels they come along as "seg", int16 (1, *S).
    """

    def __init__(self, config: VolumePreprocessConfig) -> None:
        self.config = config

    def __call__(self, raw: Raw) -> Batch:
        """The centre of the foreground, or all of it resized."""
        volume = self._prepared(raw)
        box = self._foreground(volume)
        if self.config.fit != "resize":
            box = centre_box(box, self.config.size)
        return self._sized(volume, box)

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """A crop from anywhere in the foreground, mirrored, scaled and shifted by chance."""
        config, volume = self.config, self._prepared(sample)
        box = self._foreground(volume)
        if config.fit == "random":
            box = _random_box(box, config.size, generator)
        elif config.fit == "centre":
            box = centre_box(box, config.size)
        batch = self._sized(volume, box)
        chances = torch.rand(3, generator=generator)
        axes = [axis + 1 for axis in range(3) if chances[axis] < config.flip]
        for name in ("volume", LABELS):
            if axes and name in batch:
                batch[name] = batch[name].flip(axes)
        if config.scale_intensity or config.shift_intensity:
            chances = 2 * torch.rand(2, len(config.sequences), 1, 1, 1, generator=generator) - 1
            scaled = batch["volume"] * (1 + config.scale_intensity * chances[0])
            shift = config.shift_intensity * chances[1] * batch["present"].view(-1, 1, 1, 1)
            batch["volume"] = scaled + shift
        return batch

    def collate(self, samples: Several[Batch]) -> Batch:
        """Every field that all have, stacked: volume (B, C, *S)."""
        names = [name for name in samples[0] if all(name in sample for sample in samples)]
        return {name: torch.stack([sample[name] for sample in samples]) for name in names}

    def _prepared(self, raw: Raw) -> Volume:
        """Of the right modality, orientation and spacing."""
        config, volume = self.config, open_volume(raw)
        name = str(raw) if isinstance(raw, str | Path) else "the volume"
        modality = know_modality(volume, name, expected=config.modality)
        if modality != config.modality:
            raise DataError(f"{name} is {modality}, these weights take {config.modality}")
        if "volume" in volume.sequences:  # the only one, and nobody named it
            sequences = {config.sequences[0]: volume.sequences["volume"]}
            volume = replace(volume, sequences=sequences)
        if not set(config.sequences) & volume.sequences.keys():
            found, wanted = ", ".join(volume.sequences), ", ".join(config.sequences)
            raise DataError(f"{name} holds {found}, these weights take {wanted}")
        volume = orient(volume)
        if np.allclose(volume.spacing, config.spacing, atol=_SPACING):
            return volume
        if any(sequence.maxima is not None for sequence in volume.sequences.values()):
            warnings.warn(
                f"shards of {_edges(volume.spacing)} mm are resampled to {_edges(config.spacing)} "
                "mm again and again; build them with that spacing",
                stacklevel=3,
            )
        return resample(volume, config.spacing)

    def _foreground(self, volume: Volume) -> Box:
        if self.config.crop_foreground:
            is_windowed = self.config.intensity == "window"
            return foreground_box(volume, self.config.window[0] if is_windowed else 0.0)
        x, y, z = (slice(0, size) for size in volume.shape)
        return x, y, z

    def _sized(self, volume: Volume, box: Box) -> Batch:
        """The voxels of a box, normalised, padded or resized to S."""
        config = self.config
        present = torch.tensor([name in volume.sequences for name in config.sequences])
        names = [name for name in config.sequences if name in volume.sequences]
        values = torch.from_numpy(volume.read(names, box))
        if config.intensity == "window":
            values = window(values, *config.window)
        else:
            values = standardise(values)
        if not present.all():
            found, values = values, values.new_zeros(len(present), *values.shape[1:])
            values[present] = found
        batch = {"volume": self._fitted(values, "trilinear"), "present": present}
        if LABELS in volume.sequences:
            labels = torch.from_numpy(volume.read([LABELS], box))
            batch[LABELS] = self._fitted(labels, "nearest").short()
        return batch

    def _fitted(self, values: Tensor, mode: Literal["trilinear", "nearest"]) -> Tensor:
        if self.config.fit == "resize":
            values = resize(pad_to(values, self.config.min_size), self.config.size, mode)
        return pad_to(values, self.config.size).contiguous()


def _random_box(box: Box, size: Several[int], generator: torch.Generator) -> Box:
    """A box of `size` from anywhere in another, which is taken whole where it is smaller."""
    x, y, z = (
        _random_line(line, length, generator) for line, length in zip(box, size, strict=True)
    )
    return x, y, z


def _random_line(line: slice, length: int, generator: torch.Generator) -> slice:
    spare = max(0, line.stop - line.start - length)
    start = line.start + int(torch.randint(spare + 1, (), generator=generator))
    return slice(start, min(start + length, line.stop))


def _edges(spacing: Several[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in spacing)
