import io

import numpy as np
import pytest
import torch
from zoo.modalities.audio.augment import AugmentConfig
from zoo.modalities.audio.features import LogMelConfig
from zoo.modalities.audio.preprocess import AudioPreprocess, AudioPreprocessConfig

from zoo.errors import DataError

soundfile = pytest.importorskip("soundfile")

FEATURES = LogMelConfig(sample_rate=8000, seconds=1.0, target_length=112, num_mel_bins=16)
RAMP = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)


def preprocess(**augment):
    config = AudioPreprocessConfig(features=FEATURES, augment=AugmentConfig(**augment))
    return AudioPreprocess(config)


def wav(samples, rate=8000):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def test_every_kind_of_raw_input_gives_the_same(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(wav(RAMP))
    kinds = [path, str(path), wav(RAMP), RAMP, torch.from_numpy(RAMP), RAMP[None]]
    kinds += [{"audio": RAMP}, {"audio": wav(RAMP)}, {"audio": RAMP, "rate": 8000}]
    for kind in kinds:
        assert torch.equal(preprocess()(kind)["waveform"], torch.from_numpy(RAMP))


def test_channels_rates_and_lengths():
    two = np.stack([RAMP, -RAMP])
    assert not preprocess()(two)["waveform"].any()
    short = preprocess()(RAMP[:5000])["waveform"]
    assert torch.equal(short[:5000], torch.from_numpy(RAMP[:5000]))
    assert not short[5000:].any()
    long = preprocess()(np.concatenate([RAMP, RAMP]))["waveform"]
    assert torch.equal(long, torch.from_numpy(RAMP))
    fast = np.interp(np.arange(48_000) / 6, np.arange(8000), RAMP).astype(np.float32)
    got = preprocess()(wav(fast, 48_000))["waveform"]
    assert got.shape == (8000,)
    assert np.abs(got.numpy() - RAMP)[50:-50].max() < 2e-3


def test_what_is_not_used_of_a_file_is_told(tmp_path):
    path = tmp_path / "long.wav"
    path.write_bytes(wav(np.concatenate([RAMP, RAMP])))
    with pytest.warns(UserWarning, match=r"long\.wav: the first 1 of 2\.0 seconds"):
        preprocess()(path)


def test_a_view_is_a_clip_from_anywhere():
    samples = {"audio": np.arange(40_000, dtype=np.float32) / 40_000}

    def start(seed):
        generator = torch.Generator().manual_seed(seed)
        clip = preprocess().augment(samples, generator)["waveform"]
        assert torch.allclose(clip.diff(), torch.tensor(1 / 40_000), atol=1e-6)
        return round(clip[0].item() * 40_000)

    starts = [start(seed) for seed in range(20)]
    assert starts == [start(seed) for seed in range(20)]
    assert len(set(starts)) > 15
    assert max(starts) <= 32_000


def test_collate_mixes_what_was_drawn_for_it():
    generator = torch.Generator().manual_seed(0)
    one = preprocess(mix=1.0)
    views = [one.augment({"audio": RAMP * scale}, generator) for scale in (1, 0.5, 0.2)]
    batch = one.collate(views)
    assert batch.keys() == {"waveform", "holds"}
    assert batch["waveform"].shape == (3, 8000)
    assert not torch.equal(batch["waveform"][0], views[0]["waveform"])
    plain = preprocess().collate([preprocess()(RAMP)] * 2)
    assert one.features(plain["waveform"]).shape == (2, 1, 112, 16)


def test_no_sound_where_it_was_promised():
    one = preprocess()
    recording = one.open(RAMP)
    with pytest.raises(DataError, match="no sound at 2 s"):
        one.read(recording, 16_000)
