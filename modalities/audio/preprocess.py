"""Recordings -> waveforms of the encoder's rate and length.

The spectrogram is made of a batch of them, on the device, in the encoder (`features`).

Notation: B clips, C channels, T samples of a clip.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from zoo.modalities.audio.augment import AugmentConfig, augment, draw, mix
from zoo.modalities.audio.decode import Recording
from zoo.modalities.audio.features import LogMel, LogMelConfig
from zoo.modalities.audio.resample import mono
from zoo.modalities.contracts import Batch, Preprocess, Raw, Sample

from zoo.errors import DataError

__all__ = ["AudioPreprocess", "AudioPreprocessConfig", "SoundPreprocess"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioPreprocessConfig:
    """Constants that belong to a set of weights."""

    features: LogMelConfig = field(default_factory=LogMelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


class SoundPreprocess(Preprocess):
    """What preprocessing of recordings shares: anything that sounds -> one channel at one rate."""

    sample_rate: int  # of what it gives, and of arrays that do not say theirs
    seconds: float | None = None  # of the clips that it gives, where all are as long

    def open(self, raw: Raw) -> Recording:
        """A recording of whatever a user hands over.

        Args:
            raw: path, bytes, array, or a sample: its "audio" is any of these or an open recording,
                its "rate" that of an array.

        Raises:
            DataError: it cannot be read; names it.
        """
        rate = self.sample_rate
        if isinstance(raw, dict):
            rate, raw = int(cast("int", raw.get("rate", rate))), cast("Raw", raw["audio"])
        return raw if isinstance(raw, Recording) else Recording(raw, rate=rate)

    def read(self, recording: Recording, start: int = 0, seconds: float | None = None) -> Tensor:
        """(T,): the mean of the channels at `sample_rate`.

        Args:
            recording: of any rate.
            start: the first sample, at the recording's own rate.
            seconds: how long; to the end by default.

        Raises:
            DataError: there is no sound, or it is damaged; names it.
        """
        frames = None if seconds is None else round(seconds * recording.rate)
        samples = recording.read(start, frames)
        if not samples.shape[1]:
            at = f"{start / recording.rate:g} s"
            raise DataError(f"{recording.name}: no sound at {at}", code="EMPTY_PART")
        return mono(samples, recording.rate, self.sample_rate)


class AudioPreprocess(SoundPreprocess):
    """Path, bytes, array or decoded sample -> {"waveform": float32 (T,)}.

    Channels are averaged; an array is float or int16, (T,) or (C, T), and any rate but the
    encoder's is resampled to it. A clip that is shorter is followed by zeros.
    """

    seconds: float

    def __init__(self, config: AudioPreprocessConfig) -> None:
        self.config, self.features = config, LogMel(config.features)
        self.sample_rate, self.seconds = config.features.sample_rate, config.features.seconds

    def __call__(self, raw: Raw) -> Batch:
        """The first seconds; warns where a file has more."""
        recording = self.open(raw)
        if isinstance(raw, str | Path) and recording.seconds > self.seconds:
            warnings.warn(
                f"{raw}: the first {self.seconds:g} of {recording.seconds:.1f} seconds; "
                "embed(..., window=) takes all of them",
                stacklevel=2,
            )
        return {"waveform": self._clip(recording, 0)}

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """A clip from anywhere in the recording, augmented; `mix` is what `collate` needs."""
        config, recording = self.config.augment, self.open(sample)
        spare = max(0, recording.frames - round(self.seconds * recording.rate))
        start = int(torch.randint(spare + 1, (), generator=generator))
        batch = {"waveform": augment(self._clip(recording, start), generator, config)}
        return batch | {"mix": draw(generator, config)} if config.mix else batch

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """Every field stacked, waveform (B, T).

        Clips that were drawn for it are mixed; "holds" (B, B) says which hold which others.
        """
        batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        if "mix" in batch:
            drawn = batch.pop("mix")
            batch["waveform"], batch["holds"] = mix(batch["waveform"], drawn, self.config.augment)
        return batch

    def _clip(self, recording: Recording, start: int) -> Tensor:
        size = self.config.features.num_samples
        clip = self.read(recording, start, self.seconds)[:size]
        return pad(clip, (0, size - len(clip))).contiguous()
