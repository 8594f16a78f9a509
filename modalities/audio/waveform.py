"""Recordings -> waveforms at the encoder's rate, for encoders that take no spectrogram.

Notation: B clips, S samples, N frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from zoo.modalities.audio.preprocess import SoundPreprocess
from zoo.modalities.contracts import Batch, Raw, Sample

__all__ = ["WaveformPreprocess", "WaveformPreprocessConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveformPreprocessConfig:
    """Constants that belong to a set of weights."""

    sample_rate: int = 16_000
    normalize: bool = False  # each clip to mean 0 and variance 1
    crop_seconds: float = 15.625  # of a training view; shorter clips stay as they are


class WaveformPreprocess(SoundPreprocess):
    """Path, bytes, array or decoded sample -> {"waveform": float32 (S,)}.

    Channels are averaged; an array is (S,) or (C, S) at the encoder's rate, any other source is
    resampled to it.
    """

    def __init__(
        self, config: WaveformPreprocessConfig, *, convolutions: tuple[tuple[int, int], ...]
    ) -> None:
        """Takes what turns samples into frames.

        Args:
            config: the constants.
            convolutions: (kernel, stride) of each layer of the encoder's stem.
        """
        self.config, self.convolutions = config, convolutions
        self.sample_rate = config.sample_rate
        shortest = 1
        for kernel, stride in reversed(convolutions):
            shortest = (shortest - 1) * stride + kernel
        self.shortest = shortest  # samples of one frame

    def __call__(self, raw: Raw) -> Batch:
        """The whole recording."""
        return self._finished(self.read(self.open(raw)))

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """A stretch of `crop_seconds` from anywhere in the recording."""
        recording, seconds = self.open(sample), self.config.crop_seconds
        spare = max(0, recording.frames - round(seconds * recording.rate))
        start = int(torch.randint(spare + 1, (), generator=generator))
        return self._finished(self.read(recording, start, seconds))

    def length(self, sample: Batch) -> int:
        """Frames of a clip."""
        size = len(sample["waveform"])
        for kernel, stride in self.convolutions:
            size = (size - kernel) // stride + 1
        return size

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """`waveform` (B, S), `lengths` (B,) frames, and `num_samples` (B,) where clips differ.

        A field called `*_index` points at frames of its own clip; of the batch they are one row,
        B * N long.
        """
        waveforms = [sample["waveform"] for sample in samples]
        lengths = torch.tensor([self.length(sample) for sample in samples])
        batch = {"waveform": pad_sequence(waveforms, batch_first=True), "lengths": lengths}
        if len({len(waveform) for waveform in waveforms}) > 1:
            batch["num_samples"] = torch.tensor([len(waveform) for waveform in waveforms])
        width = int(lengths.max())
        for name in samples[0].keys() - {"waveform"}:
            parts = [sample[name] for sample in samples]
            if name.endswith("_index"):
                parts = [part + i * width for i, part in enumerate(parts)]
            batch[name] = torch.cat(parts)
        return batch

    def _finished(self, waveform: Tensor) -> Batch:
        """Long enough for one frame, and normalised."""
        if self.config.normalize:
            var, mean = torch.var_mean(waveform, correction=0)
            waveform = (waveform - mean) / (var + 1e-7).sqrt()
        missing = max(0, self.shortest - len(waveform))
        return {"waveform": pad(waveform, (0, missing)).contiguous()}
