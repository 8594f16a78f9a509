"""Synthesised song: what species differ in, and what a clip holds."""

import numpy as np
import pytest

from zoo.demo.song import RATE, SECONDS, SPECIES, clip, sing

SONGS = 12  # of each species
LONGEST = 2 * RATE  # samples


def frame_pitches(song):
    """Strongest frequency of each loud stretch of 16 ms."""
    frames = song[: len(song) // 256 * 256].reshape(-1, 256)
    loud = frames[np.abs(frames).max(axis=1) > 0.3]
    return np.abs(np.fft.rfft(loud * np.hanning(256))).argmax(axis=1) * RATE / 256


def average_spectra():
    rng = np.random.default_rng(0)
    spectra = []
    for species in SPECIES:
        power = [np.abs(np.fft.rfft(sing(species, rng), LONGEST)) ** 2 for _ in range(SONGS)]
        smooth = np.convolve(np.mean(power, axis=0), np.hanning(400), mode="same")
        spectra.append(smooth / np.linalg.norm(smooth))
    return np.stack(spectra)


def test_the_species_of_a_pair_have_the_same_average_spectrum():
    alike = average_spectra()
    alike = alike @ alike.T - 2 * np.eye(len(SPECIES))
    assert [int(row.argmax()) for row in alike] == [i ^ 1 for i in range(len(SPECIES))]


@pytest.mark.parametrize(("name", "sign"), [("rising whistle", 1), ("falling whistle", -1)])
def test_whistles_glide(name, sign):
    [species] = [one for one in SPECIES if one.name == name]
    steps = np.sign(np.diff(frame_pitches(sing(species, np.random.default_rng(1)))))
    assert (steps == sign).sum() > 3 * (steps == -sign).sum()


def test_individuals_differ_and_seeds_do_not():
    one, two = (sing(SPECIES[2], np.random.default_rng(seed)) for seed in (0, 1))
    assert len(one) != len(two)
    assert np.array_equal(one, sing(SPECIES[2], np.random.default_rng(0)))
    assert np.abs(one).max() <= 1


def test_near_birds_are_louder_than_far_ones_and_both_than_noise():
    def level(near, others):
        clips = [clip(near, others, np.random.default_rng(seed)) for seed in range(20)]
        assert all(one.shape == (round(RATE * SECONDS),) for one in clips)
        assert all(one.dtype == np.int16 for one in clips)
        song = np.abs(np.fft.rfft(np.stack(clips) / 32768.0))[:, round(1000 * SECONDS) :]
        return np.square(song).sum(axis=1).mean()

    noise, far, near = level(None, 0), level(None, 1), level(0, 0)
    assert noise * 1.1 < far
    assert far * 2 < near
