import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.audio.augment import AugmentConfig, augment, draw, mix

MIXING = AugmentConfig(mix=0.5, mix_most=2, mix_snr=(5.0, 25.0))


def generator(seed):
    return torch.Generator().manual_seed(seed)


def clips(count=6, length=400):
    return torch.randn(count, length, generator=generator(0))


def drawn(chosen, *, snr=0.5, partner=0.0, count=0.0, roll=0.0):
    """What `draw` gives, told: which clips are mixed, and the same for all else."""
    rows = [[0.0 if is_chosen else 0.9, snr, partner, count, roll, roll] for is_chosen in chosen]
    return torch.tensor(rows)


def rms(x):
    return x.square().mean(-1).sqrt()


def test_nothing_happens_by_default():
    waveform = clips(1)[0]
    assert torch.equal(augment(waveform, generator(1), AugmentConfig()), waveform)
    draws = torch.stack([draw(generator(i), AugmentConfig()) for i in range(6)])
    assert torch.equal(mix(clips(), draws, AugmentConfig())[0], clips())


def test_a_clip_is_rolled_and_scaled_by_its_own_generator():
    waveform = torch.arange(1.0, 101.0)
    config = AugmentConfig(roll=True, gain=10)
    one, again, other = (augment(waveform, generator(s), config) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    gain = one.sum() / waveform.sum()
    torch.testing.assert_close((one / gain).sort().values, waveform)
    start = int((one / gain).argmin())
    torch.testing.assert_close((one / gain).roll(-start), waveform)


def test_gains_are_beta():
    config, one = AugmentConfig(gain=10), torch.ones(1)
    chance = generator(3)
    gains = torch.stack([augment(one, chance, config) for _ in range(2000)]) - 0.5
    assert abs(gains.mean() - 0.5) < 0.01
    assert abs(gains.std() - math.sqrt(1 / 84)) < 0.01  # ab / ((a + b)^2 (a + b + 1)), a = b = 10


def test_a_partner_is_added_at_the_ratio():
    waveforms = clips(3)
    mixed, holds = mix(waveforms, drawn([True, False, True], snr=0.25, roll=0.5), MIXING)
    assert holds.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert torch.equal(mixed[1], waveforms[1])
    for clip, partner in ((0, 2), (2, 0)):
        added = mixed[clip] - waveforms[clip]
        torch.testing.assert_close(
            20 * (rms(waveforms[clip]) / rms(added)).log10(), torch.tensor(10.0)
        )
        shape = waveforms[partner].roll(200)
        torch.testing.assert_close(added / rms(added), shape / rms(shape), atol=1e-4, rtol=0)


def test_further_additions_are_scaled_to_the_mixture():
    waveforms = clips(2)
    once, _ = mix(waveforms, drawn([True, True]), MIXING)
    twice, _ = mix(waveforms, drawn([True, True], count=0.9), MIXING)
    ratio = 20 * (rms(once) / rms(twice - once)).log10()
    torch.testing.assert_close(ratio, torch.full((2,), 15.0))


@pytest.mark.parametrize("chosen", [[], [2]])
def test_who_has_no_partner_stays_alone(chosen):
    rows = drawn([i in chosen for i in range(6)])
    mixed, holds = mix(clips(), rows, MIXING)
    assert torch.equal(mixed, clips())
    assert torch.equal(holds, torch.eye(6, dtype=torch.bool))


def test_silence_is_added_as_silence():
    waveforms = clips(2)
    waveforms[1] = 0
    mixed, _ = mix(waveforms, drawn([True, True]), MIXING)
    assert torch.equal(mixed, waveforms)


@settings(deadline=None, max_examples=30, database=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 9), share=st.floats(0, 1))
def test_mixing_is_a_function_of_batch_and_draws(seed, count, share):
    config, waveforms = AugmentConfig(mix=share), clips(count, 50)
    draws = torch.stack([draw(generator(seed + i), config) for i in range(count)])
    mixed, _ = mix(waveforms, draws, config)
    assert torch.equal(mixed, mix(waveforms, draws, config)[0])
    assert mixed.isfinite().all()
    chosen = draws[:, 0] < share
    changed = (mixed != waveforms).any(dim=1)
    assert torch.equal(changed, chosen if chosen.sum() > 1 else torch.zeros_like(chosen))


@pytest.mark.parametrize("wrong", [{"mix": 1.5}, {"mix_most": 0}, {"gain": 0}])
def test_impossible_options(wrong):
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        AugmentConfig(**wrong)
