"""Waveform -> log-mel spectrogram as Bird-MAE (arXiv 2504.12880) and AudioMAE (2207.06405) see it.

Numbers match torchaudio.compliance.kaldi, which does the same on all frames at once, in new memory
for every step, and multiplies a matrix of filters that is mostly zero. Here a CPU works on as many
frames as stay in its cache, in memory that is used again, and multiplies the blocks of the matrix
that are not zero; an accelerator takes many clips at once.

Notation: B clips, T samples, F frames, W samples of a frame, M mel bands.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import get_ident
from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["LogMel", "LogMelConfig", "mel_weights"]

PREEMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps  # of a band's power, before the logarithm
BAND = 32  # filters that share one product: fewer products cost less than the zeros in them
CPU_FRAMES = 249  # at once and a thread: half of a clip, 3 MB of scratch
CLIPS = 64  # that an accelerator works on at once: 0.4 GB


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMelConfig:
    """Constants of a spectrogram; they belong to a set of weights."""

    sample_rate: int = 32_000  # Hz
    seconds: float = 5.0  # of a clip
    frame_length: float = 25.0  # ms
    frame_shift: float = 10.0  # ms
    num_mel_bins: int = 128
    low_freq: float = 20.0  # Hz
    high_freq: float | None = None  # Hz; half the sample rate by default
    target_length: int = 512  # frames: more are cut, fewer are padded
    # What fills missing frames: the smallest value of the clip, or of the batch (upstream Bird-MAE:
    # there the features of a clip depend on its neighbours), or 0 before normalisation (AudioMAE).
    pad: Literal["clip_min", "batch_min", "zero"] = "clip_min"
    mean: float = -7.2  # (x - mean) / (2 std)
    std: float = 4.43

    def __post_init__(self) -> None:
        if self.num_samples < self.frame_samples:
            raise ValueError(f"{self.seconds} seconds are shorter than one frame")
        if not 0 <= self.low_freq < self.top_freq <= self.sample_rate / 2:
            raise ValueError(
                f"low_freq {self.low_freq} and high_freq {self.top_freq} must rise from 0 to half "
                f"of sample_rate {self.sample_rate}"
            )

    @property
    def num_samples(self) -> int:
        """Samples of a clip."""
        return round(self.seconds * self.sample_rate)

    @property
    def frame_samples(self) -> int:
        """W."""
        return int(self.frame_length * self.sample_rate / 1000)

    @property
    def shift_samples(self) -> int:
        """Samples from one frame to the next."""
        return int(self.frame_shift * self.sample_rate / 1000)

    @property
    def fft_samples(self) -> int:
        """The next power of two: W samples and zeros."""
        return 1 << (self.frame_samples - 1).bit_length()

    @property
    def top_freq(self) -> float:
        """Hz where the highest filter ends."""
        return self.sample_rate / 2 if self.high_freq is None else self.high_freq


class LogMel:
    """(B, T) float32 -> (B, 1, target_length, M) float32, time first, on the waveform's device.

    Float32 under autocast too, and in a model of any dtype: it holds no parameters and no buffers.
    """

    def __init__(self, config: LogMelConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, waveform: Tensor) -> Tensor:
        """The normalised features of each clip; T must hold at least one frame.

        Raises:
            ValueError: the waveform is of another shape or dtype.
        """
        config, device = self.config, waveform.device
        if waveform.ndim != 2 or waveform.dtype != torch.float32:
            shape = tuple(waveform.shape)
            raise ValueError(f"waveforms must be float32 (B, T), got {waveform.dtype} {shape}")
        width, shift = config.frame_samples, config.shift_samples
        if waveform.shape[1] < width:
            raise ValueError(f"{waveform.shape[1]} samples are shorter than a frame of {width}")
        count = min(1 + (waveform.shape[1] - width) // shift, config.target_length)
        size = (len(waveform), config.target_length, config.num_mel_bins)
        out = torch.empty(size, device=device)
        clips = 1 if device.type == "cpu" else CLIPS
        pieces = -(-count // (CPU_FRAMES * torch.get_num_threads())) if clips == 1 else 1
        kind = "cpu" if device.type == "meta" else device.type  # where FLOPs are counted
        with torch.autocast(kind, enabled=False):
            for x, mel in zip(waveform.split(clips), out.split(clips), strict=True):
                frames = (x - x.mean(dim=1, keepdim=True)).unfold(1, width, shift)[:, :count]
                targets = mel[:, :count].tensor_split(pieces, 1)
                for part, place in zip(frames.tensor_split(pieces, 1), targets, strict=True):
                    power = _workspace(config, part).power(part)
                    torch.log(power.clamp_(min=FLOOR).view(place.shape), out=place)
        _pad(out, count, config)
        return out.sub_(config.mean).div_(2 * config.std).unsqueeze(1)


def _pad(out: Tensor, frames: int, config: LogMelConfig) -> None:
    """Fills what follows the first `frames` of (B, F, M)."""
    match config.pad:
        case "clip_min":
            out[:, frames:] = out[:, :frames].amin(dim=(1, 2), keepdim=True)
        case "batch_min":
            out[:, frames:] = out[:, :frames].amin()
        case "zero":
            out[:, frames:] = 0


class _Workspace:
    """Memory for R frames at once, and the views of it that every call needs."""

    def __init__(self, config: LogMelConfig, rows: int, device: torch.device) -> None:
        window, bands = _constants(config, device)
        width, bins = len(window), config.fft_samples // 2 + 1
        self.centred = torch.empty((rows, width), device=device)
        self.before, self.now = self.centred[:, :-1], self.centred[:, 1:]
        self.padded = torch.zeros((rows, config.fft_samples), device=device)
        # The first sample stays 0, as the window would make it, and so do those after the frame.
        self.inner, self.window = self.padded[:, 1:width], window[1:]
        self.squares = torch.empty((rows, bins), device=device)
        self.mel = torch.empty((rows, config.num_mel_bins), device=device)
        self.bands = [(self.squares[:, b], weights, self.mel[:, f]) for f, b, weights in bands]

    def power(self, frames: Tensor) -> Tensor:
        """(b, F, W) -> (b F, M): power in each band, in the order of Kaldi's operations.

        The result is overwritten by the next call.
        """
        torch.sub(frames, frames.mean(dim=2, keepdim=True), out=self.centred.view(frames.shape))
        torch.mul(self.before, PREEMPHASIS, out=self.inner)  # rounded, as sub's alpha would not be
        torch.sub(self.now, self.inner, out=self.inner).mul_(self.window)
        parts = torch.view_as_real(torch.fft.rfft(self.padded)).square_()  # rfft's out= copies
        torch.add(parts[..., 0], parts[..., 1], out=self.squares)
        for squares, weights, mel in self.bands:
            torch.mm(squares, weights, out=mel)
        return self.mel


def _workspace(config: LogMelConfig, frames: Tensor) -> _Workspace:
    """On a CPU memory that is warm from the last clip, each thread its own."""
    rows, device = frames.shape[0] * frames.shape[1], frames.device
    if device.type == "cpu":
        return _warm_workspace(config, rows, get_ident())
    return _Workspace(config, rows, device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _warm_workspace(config: LogMelConfig, rows: int, thread: int) -> _Workspace:
    return _Workspace(config, rows, torch.device("cpu"))


class _Constants(NamedTuple):
    window: Tensor  # (W,)
    bands: list[tuple[slice, slice, Tensor]]  # filters, bins, weights (bins, filters)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _constants(config: LogMelConfig, device: torch.device) -> _Constants:
    window = torch.hann_window(config.frame_samples, periodic=False, device=device)
    weights = mel_weights(config)
    bands = [(filters, bins, block.to(device)) for filters, bins, block in _bands(weights)]
    return _Constants(window, bands)


def mel_weights(config: LogMelConfig) -> Tensor:
    """(fft_samples / 2 + 1, M): triangles on the HTK scale, 1127 ln(1 + f / 700), of unit height.

    In float32 and step by step as Kaldi does, so that narrow filters are equal too.
    """
    low, high = (1127 * math.log(1 + f / 700) for f in (config.low_freq, config.top_freq))
    step = (high - low) / (config.num_mel_bins + 1)
    number = torch.arange(config.num_mel_bins)
    left, centre, right = (low + (number + i) * step for i in (0.0, 1.0, 2.0))
    frequency = torch.arange(config.fft_samples // 2 + 1) * (
        config.sample_rate / config.fft_samples
    )
    mel = 1127 * (1 + frequency / 700).log().unsqueeze(1)
    weights = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    weights[-1] = 0  # Kaldi leaves the Nyquist frequency out
    return weights.clamp(min=0)


def _bands(weights: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Some filters at a time, with the bins between the first and the last that they need."""
    for start in range(0, weights.shape[1], BAND):
        filters = slice(start, min(start + BAND, weights.shape[1]))
        used = weights[:, filters].sum(dim=1).nonzero()
        bins = slice(int(used.min()), int(used.max()) + 1) if len(used) else slice(0, 1)
        yield filters, bins, weights[bins, filters].contiguous()
