"""The audio part's data and statistics; `tests/test_demo.py` runs all of it."""

import hashlib

import numpy as np
import pytest
from scipy.stats import ttest_rel
from zoo.modalities.audio.codec import AudioCodec

from zoo.data.shards import ShardSet
from zoo.demo.birds import QUICK_CLIPS, SEEDS, paired_interval, write_birds
from zoo.demo.song import RATE, SPECIES


def test_splits_share_no_clip_and_only_training_clips_have_no_label(tmp_path):
    seen, codec = set(), AudioCodec()
    for split, folder in write_birds(tmp_path, quick=True).items():
        shards = ShardSet(folder)
        assert len(shards) == QUICK_CLIPS[split]
        labels = []
        for index in range(len(shards)):
            members = shards.read(index)
            seen.add(hashlib.sha256(members["wav"]).digest())
            sample = codec.decode(members)
            assert sample["audio"].rate == RATE
            labels.append(sample.get("label"))
        if split == "train":
            assert set(labels) == {None}
        else:
            assert (np.bincount(labels) == len(shards) / len(SPECIES)).all()
    assert len(seen) == sum(QUICK_CLIPS.values())


def test_interval_is_that_of_the_paired_t_test():
    a, b = np.random.default_rng(0).random((2, SEEDS))
    wanted = ttest_rel(a, b).confidence_interval(0.95)
    mean, low, high = paired_interval(a, b)
    assert mean == pytest.approx((a - b).mean())
    assert (low, high) == pytest.approx((wanted.low, wanted.high), rel=1e-3)
