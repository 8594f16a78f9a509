"""Synthetic bird song: no recording of any bird, but sound with the structure of song.

Twelve invented species come in six pairs. The two of a pair use the same frequencies and differ in
how these follow each other, so that a clip's average spectrum cannot tell them apart. Individuals
differ in pitch, tempo, bend and loudness; clips have wind, pink noise, and birds further away.

Notation: T samples of a clip, S samples of a song.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RATE", "SECONDS", "SPECIES", "Species", "Syllable", "clip", "sing"]

RATE = 16_000  # Hz
SECONDS = 1.3
SAMPLES = round(RATE * SECONDS)
_FREQUENCIES = np.fft.rfftfreq(SAMPLES, 1 / RATE)

Sound = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Syllable:
    """One tone whose pitch glides from each frequency to the next."""

    glide: tuple[float, ...]  # Hz
    seconds: float
    tones: tuple[float, ...] = (1.0,)  # amplitudes of 1, 2, ... times the pitch
    vibrato: float = 0.0  # Hz: how often the pitch swings by 6 %
    pulse: float = 0.0  # Hz: how often the loudness falls to nothing


@dataclass(frozen=True, slots=True)
class Species:
    """A phrase, the silence after each of its syllables, and how often it is sung."""

    name: str
    phrase: tuple[Syllable, ...]
    gap: float  # seconds
    times: int


_REEDY = (1.0, 0.7, 0.5, 0.35, 0.25)
_HIGH, _LOW = Syllable(glide=(1700,), seconds=0.22), Syllable(glide=(1200,), seconds=0.28)

SPECIES = (
    Species("rising whistle", (Syllable(glide=(2000, 3400), seconds=0.16),), 0.08, 3),
    Species("falling whistle", (Syllable(glide=(3400, 2000), seconds=0.16),), 0.08, 3),
    Species("slow trill", (Syllable(glide=(4600, 3800), seconds=0.05),), 0.05, 7),
    Species("fast trill", (Syllable(glide=(4600, 3800), seconds=0.02),), 0.015, 20),
    Species("two notes down", (_HIGH, _LOW), 0.06, 1),
    Species("two notes up", (_LOW, _HIGH), 0.06, 1),
    Species("slow warble", (Syllable(glide=(2800,), seconds=0.35, vibrato=12),), 0.1, 2),
    Species("fast warble", (Syllable(glide=(2800,), seconds=0.35, vibrato=30),), 0.1, 2),
    Species("clear call", (Syllable(glide=(1000, 900), seconds=0.14, tones=_REEDY),), 0.12, 3),
    Species(
        "rough call", (Syllable(glide=(1000, 900), seconds=0.14, tones=_REEDY, pulse=45),), 0.12, 3
    ),
    Species("arch", (Syllable(glide=(4200, 6200, 4200), seconds=0.2),), 0.1, 3),
    Species("valley", (Syllable(glide=(6200, 4200, 6200), seconds=0.2),), 0.1, 3),
)


def sing(species: Species, rng: np.random.Generator) -> Sound:
    """(S,): one individual's song, amplitude 1 at most; it may be longer than a clip."""
    pitch, tempo, bend = np.exp(rng.normal(0, (0.06, 0.12, 0.15)))
    times = max(1, species.times + int(rng.integers(-1, 2)) * (species.times > 1))
    pieces = []
    for syllable in species.phrase * times:
        own = pitch * np.exp(rng.normal(0, 0.01))
        pieces.append(rng.uniform(0.6, 1.0) * _tone(syllable, own, tempo, bend))
        pieces.append(np.zeros(round(species.gap * tempo * rng.uniform(0.8, 1.2) * RATE)))
    return np.concatenate(pieces)


def _tone(syllable: Syllable, pitch: float, tempo: float, bend: float) -> Sound:
    seconds = np.arange(round(syllable.seconds * tempo * RATE)) / RATE
    along = seconds / (syllable.seconds * tempo)
    octaves = np.log2(syllable.glide)
    middle = octaves.mean()
    octaves = np.interp(along, np.linspace(0, 1, len(octaves)), octaves)
    frequency = pitch * 2 ** (middle + bend * (octaves - middle))
    frequency *= 1 + 0.06 * np.sin(2 * np.pi * syllable.vibrato / tempo * seconds)
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    tone = np.zeros(len(phase))
    for number, amplitude in enumerate(syllable.tones, start=1):
        tone += amplitude * np.sin(number * phase) * (number * frequency < RATE / 2)
    tone *= np.minimum(1, 8 * np.minimum(along, 1 - along)) / sum(syllable.tones)
    return tone * (1 + np.cos(2 * np.pi * syllable.pulse / tempo * seconds)) / 2


def clip(near: int | None, others: int, rng: np.random.Generator) -> NDArray[np.int16]:
    """(T,): a bird nearby, others further away, noise.

    Args:
        near: number of the species nearby, if any.
        others: how many birds sing further away, of any species.
        rng: of everything else.
    """
    sound = _noise(rng)
    if near is not None:
        sound += _heard(SPECIES[near], rng.uniform(1.0, 2.0), rng)
    for number in rng.integers(len(SPECIES), size=others):
        sound += _heard(SPECIES[number], rng.uniform(3.0, 6.0), rng)
    return (sound * 32767).round().clip(-32768, 32767).astype(np.int16)


def _heard(species: Species, distance: float, rng: np.random.Generator) -> Sound:
    """(T,): a song from some distance, quieter and duller, anywhere in the clip."""
    song = sing(species, rng)[:SAMPLES]
    sound = np.zeros(SAMPLES)
    start = int(rng.integers(SAMPLES - len(song) + 1))
    sound[start : start + len(song)] = song
    # Air takes more of the high frequencies; foliage makes it a few decibels over tens of metres.
    dull = np.exp(-0.1 * distance * _FREQUENCIES / 4000)
    return np.fft.irfft(np.fft.rfft(sound) * dull, SAMPLES) * 0.3 / distance


def _noise(rng: np.random.Generator) -> Sound:
    """(T,): pink noise, and wind below some hundred hertz that swells and falls."""
    pink = _coloured(1 / np.sqrt(np.maximum(_FREQUENCIES, 50)), rng)
    wind = _coloured(np.exp(-_FREQUENCIES / 150), rng)
    swell = np.interp(np.arange(SAMPLES), np.linspace(0, SAMPLES, 5), rng.uniform(0, 1, 5))
    return rng.uniform(0.01, 0.04) * pink + rng.uniform(0, 0.1) * swell * wind


def _coloured(spectrum: Sound, rng: np.random.Generator) -> Sound:
    """(T,): noise of root mean square 1."""
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(SAMPLES)) * spectrum, SAMPLES)
    return sound / np.sqrt(np.mean(np.square(sound)))
