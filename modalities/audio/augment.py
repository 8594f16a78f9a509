"""Augmentation of waveforms as Bird-MAE pretrains with it (arXiv 2504.12880).

A clip is rolled and scaled on its own; then some clips of a batch are mixed, which needs the batch.
So a clip's chance, the mixing's too, is drawn in the loader's workers from its own generator, like
an MAE's mask, and `mix` is a pure function of a batch and what was drawn for it. Who is mixed with
whom depends on how the batch is divided, among processes and micro-batches.

Notation: B clips, T samples, K numbers drawn for a clip.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AugmentConfig", "augment", "draw", "mix"]

_SILENCE = 1e-8  # root mean square below which there is nothing to scale


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """What happens to a waveform in training; the defaults leave it as it is."""

    roll: bool = False  # by any number of samples, cyclically
    gain: int | None = None  # a: times a number from Beta(a, a) + 0.5
    mix: float = 0.0  # chance that a clip is mixed with others of its batch
    mix_most: int = 3  # times that a partner is added, drawn once a batch
    mix_snr: tuple[float, float] = (5.0, 25.0)  # decibels, the clip over the partner

    def __post_init__(self) -> None:
        gain = 1 if self.gain is None else self.gain
        if not 0.0 <= self.mix <= 1.0 or self.mix_most < 1 or gain < 1:
            raise ValueError("mix must lie between 0 and 1, mix_most and gain be at least 1")


def augment(waveform: Tensor, generator: torch.Generator, config: AugmentConfig) -> Tensor:
    """(T,) -> (T,): rolled, then scaled."""
    if config.roll:
        waveform = _rolled(waveform, torch.rand((), generator=generator))
    if config.gain is not None:
        # The middle of 2a - 1 uniform numbers has the distribution Beta(a, a).
        uniform = torch.rand(2 * config.gain - 1, generator=generator)
        waveform = waveform * (uniform.median() + 0.5)
    return waveform


def draw(generator: torch.Generator, config: AugmentConfig) -> Tensor:
    """(K,) uniform numbers of one clip, for `mix`."""
    return torch.rand(4 + config.mix_most, generator=generator)


def mix(waveforms: Tensor, drawn: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Adds to some clips another clip of those, rolled, at a random signal-to-noise ratio.

    As upstream, a clip keeps one partner for all additions, and partners are as they were before
    mixing.

    Args:
        waveforms: (B, T).
        drawn: (B, K) of `draw`: whether, SNR, partner, how often (the first clip's counts for all),
            and a roll for each addition.
        config: the augmentation.

    Returns:
        (B, T), a copy; clips that are not mixed, or have no partner, are as they were. And (B, B),
        true where the clip of the row holds the one of the column: its labels too.
    """
    mixed, holds = waveforms.clone(), torch.eye(len(waveforms), dtype=torch.bool)
    chosen = (drawn[:, 0] < config.mix).nonzero().flatten()
    if len(chosen) < 2:
        return mixed, holds
    low, high = config.mix_snr
    additions = 1 + int(drawn[0, 3] * config.mix_most)
    others = len(chosen) - 1
    for place, clip in enumerate(chosen.tolist()):
        decibels = low + drawn[clip, 1] * (high - low)
        step = 1 + min(int(drawn[clip, 2] * others), others - 1)  # never 0: not with itself
        other = chosen[(place + step) % len(chosen)]
        partner, holds[clip, other] = waveforms[other], True
        for fraction in drawn[clip, 4 : 4 + additions]:
            level = _rms(mixed[clip]) / 10 ** (decibels / 20)
            scale = level / _rms(partner).clamp(min=_SILENCE)
            mixed[clip] += _rolled(partner, fraction) * scale
    return mixed, holds


def _rolled(waveform: Tensor, fraction: Tensor) -> Tensor:
    return waveform.roll(int(fraction * waveform.shape[-1]), dims=-1)


def _rms(waveform: Tensor) -> Tensor:
    return waveform.square().mean(dim=-1).sqrt()
