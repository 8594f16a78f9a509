import copy
import pickle
import threading

import pytest
import torch
from torch.nn.functional import pad
from zoo.modalities.audio.features import LogMel, LogMelConfig, mel_weights

kaldi = pytest.importorskip("torchaudio.compliance.kaldi")

CONFIGS = {
    "bird-mae": LogMelConfig(),
    "audiomae": LogMelConfig(
        sample_rate=16_000, seconds=10.0, target_length=1024, pad="zero", mean=-4.27, std=4.57
    ),
    "small": LogMelConfig(
        sample_rate=22_050,
        seconds=1.3,
        frame_length=20.0,
        frame_shift=7.5,
        num_mel_bins=40,
        low_freq=50.0,
        high_freq=9000.0,
        target_length=128,
    ),
}


def plain(waveform, config):
    """What upstream computes: one clip (T,) through Kaldi's filter bank."""
    features = kaldi.fbank(
        (waveform - waveform.mean())[None],
        sample_frequency=config.sample_rate,
        frame_length=config.frame_length,
        frame_shift=config.frame_shift,
        num_mel_bins=config.num_mel_bins,
        low_freq=config.low_freq,
        high_freq=config.high_freq or 0.0,
        htk_compat=True,
        use_energy=False,
        window_type="hanning",
        dither=0.0,
    )
    value = 0.0 if config.pad == "zero" else features.min().item()
    missing = config.target_length - len(features)
    features = pad(features, (0, 0, 0, missing), value=value)[: config.target_length]
    return (features - config.mean) / (2 * config.std)


def chirp(config, clips=3):
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(config.num_samples) / config.sample_rate
    noise = 0.01 * torch.randn(clips, config.num_samples, generator=generator)
    tones = torch.sin(2 * torch.pi * (400 + 300 * time) * time) * torch.tensor([[0.5], [1e-3], [0]])
    waveform = tones + noise * torch.tensor([[1.0], [0.1], [0.0]]) + 0.2  # with an offset
    waveform[1, config.num_samples // 3 :] = 0
    return waveform


@pytest.mark.parametrize("name", CONFIGS)
def test_fast_form_is_the_plain_one(name):
    config = CONFIGS[name]
    waveform = chirp(config)
    got = LogMel(config)(waveform)
    assert got.shape == (3, 1, config.target_length, config.num_mel_bins)
    assert got.dtype == torch.float32
    for clip, features in zip(waveform, got[:, 0], strict=True):
        torch.testing.assert_close(features, plain(clip, config), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_filters_are_kaldis(name):
    config = CONFIGS[name]
    bank, _ = kaldi.get_mel_banks(
        *(config.num_mel_bins, config.fft_samples, float(config.sample_rate)),
        *(config.low_freq, config.high_freq or 0.0, 100.0, -500.0, 1.0),
    )
    assert torch.equal(mel_weights(config), pad(bank, (0, 1)).T)


def test_a_clip_does_not_depend_on_its_neighbours_unless_told_to():
    waveform = chirp(CONFIGS["bird-mae"])[[0, 2]]
    waveform[0] += 0.1 * torch.randn(160_000, generator=torch.Generator().manual_seed(1))
    alone = [LogMel(LogMelConfig())(clip[None])[0] for clip in waveform]
    assert torch.equal(LogMel(LogMelConfig())(waveform), torch.stack(alone))
    together = LogMel(LogMelConfig(pad="batch_min"))(waveform)
    assert together[:, :, -1].unique().tolist() == [together.min().item()]
    assert not torch.equal(together[0], alone[0])


def test_silence_lies_on_the_floor():
    features = LogMel(LogMelConfig())(torch.zeros(1, 160_000))
    assert features.unique().tolist() == [pytest.approx((-15.942385 + 7.2) / 8.86)]


def test_float32_whatever_surrounds_it():
    waveform = chirp(CONFIGS["small"])
    want = LogMel(CONFIGS["small"])(waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(LogMel(CONFIGS["small"])(waveform), want)
    for other in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        assert torch.equal(other(LogMel(CONFIGS["small"]))(waveform), want)


def test_memory_of_an_inference_serves_training_and_other_threads():
    config = LogMelConfig(sample_rate=8000, seconds=0.5, target_length=64, num_mel_bins=23)
    waveform, got = torch.randn(4, config.num_samples), []
    with torch.inference_mode():
        want = LogMel(config)(waveform).clone()
    work = [threading.Thread(target=lambda: got.append(LogMel(config)(waveform))) for _ in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(got) == 4
    assert all(torch.equal(one, want) for one in [*got, LogMel(config)(waveform)])


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(160_000), "must be float32"),
        (torch.zeros(1, 160_000, dtype=torch.float64), "must be float32"),
        (torch.zeros(1, 799), "shorter than a frame of 800"),
    ],
)
def test_other_input_is_refused(waveform, message):
    with pytest.raises(ValueError, match=message):
        LogMel(LogMelConfig())(waveform)


@pytest.mark.parametrize(
    "options", [{"high_freq": 20_000.0}, {"low_freq": 17_000.0}, {"seconds": 0.01}]
)
def test_impossible_constants_are_refused(options):
    with pytest.raises(ValueError, match=r"high_freq|shorter"):
        LogMelConfig(**options)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_accelerator_gives_the_same_numbers():
    waveform = chirp(LogMelConfig()).repeat(30, 1)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        got = LogMel(LogMelConfig())(waveform.cuda())
    torch.testing.assert_close(got.cpu(), LogMel(LogMelConfig())(waveform), atol=1e-3, rtol=0)
