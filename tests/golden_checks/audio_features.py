"""Checker of the kind `features`: waveforms -> normalised log-mel."""

import pytest
import torch
from zoo.modalities.audio.augment import AugmentConfig
from zoo.modalities.audio.features import LogMelConfig
from zoo.modalities.audio.preprocess import AudioPreprocess, AudioPreprocessConfig


def features(fixture):
    config, tolerance = fixture.config, fixture.sidecar["tolerance"]
    constants = {
        "sample_rate": config["sample_rate"],
        "seconds": config["clip_seconds"],
        "frame_length": config["frame_length_ms"],
        "frame_shift": config["frame_shift_ms"],
        "num_mel_bins": config["num_mel_bins"],
        "low_freq": config["low_freq"],
        "high_freq": config["high_freq"],
        "target_length": config["target_length"],
        "mean": config["mean"],
        "std": config["std"] if config["divide_by_2std"] else config["std"] / 2,
    }
    atol = tolerance.get("atol_expected_cpu_float32", tolerance["atol"])
    close = {"atol": atol, "rtol": tolerance["rtol"]}
    preprocess = _preprocess(constants)
    names = [clip["name"] for clip in fixture.sidecar["clips"]]
    waves = [fixture.tensors[f"wave_int16.{name}"] for name in names]
    batch = preprocess.collate([preprocess(wave) for wave in waves])["waveform"]
    got = preprocess.features(batch)
    for i, clip in enumerate(fixture.sidecar["clips"]):
        torch.testing.assert_close(got[i], fixture.tensors[f"features.{clip['name']}"], **close)
        assert got[i].mean().item() == pytest.approx(clip["mean"], abs=atol)
        # A clip never depends on its neighbours.
        assert torch.equal(got[i], preprocess.features(batch[i : i + 1])[0])

    tail = fixture.tensors["features_batched_tail"]
    upstream = _preprocess(constants | {"pad": "batch_min"}).features(batch)
    rows, columns = tail.shape[2:]
    torch.testing.assert_close(upstream[:, :, -rows:, :columns], tail, **close)
    assert torch.equal(upstream[:, :, :-rows], got[:, :, :-rows])


def _preprocess(constants):
    features = LogMelConfig(**constants)
    return AudioPreprocess(AudioPreprocessConfig(features=features, augment=AugmentConfig()))


CHECKS = {"features": features}
