"""Synthesised torsos, and the control of VoCo; `tests/test_demo.py` runs all of the part."""

import hashlib

import numpy as np
import pytest
import torch
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.volume import LABELS
from zoo.objectives.voco import VoCo, VoCoConfig

import zoo
from zoo.data.shards import ShardSet
from zoo.demo.shuffled_voco import ShuffledVoCo
from zoo.demo.torsos import ORGANS, SHAPE, SPACING, draw_torso, write_torsos
from zoo.demo.volumes import MODEL

BODIES = 12


@pytest.fixture(scope="module")
def torsos():
    return [draw_torso(np.random.default_rng(seed)) for seed in range(BODIES)]


def middles(torsos, name):
    """(BODIES, 3) mm from the middle of the scan."""
    number = 1 + [organ.name for organ in ORGANS].index(name)
    places = [np.argwhere(torso.classes == number).mean(axis=0) for torso in torsos]
    return (np.array(places) - (np.array(SHAPE) - 1) / 2) * SPACING


def test_organs_lie_where_they_belong_and_no_two_bodies_are_alike(torsos):
    liver, spleen = middles(torsos, "liver"), middles(torsos, "spleen")
    right, left = middles(torsos, "right kidney"), middles(torsos, "left kidney")
    assert (liver[:, 0] > 20).all()
    assert (spleen[:, 0] < -20).all()
    assert (right[:, 0] - left[:, 0] > 60).all()
    assert (right[:, 1] < liver[:, 1]).all()  # kidneys are at the back
    assert (middles(torsos, "bladder")[:, 2] < right[:, 2]).all()
    assert (liver.std(axis=0) > 1).all()
    again = draw_torso(np.random.default_rng(3))
    assert np.array_equal(again.hu, torsos[3].hu)


def test_intensities_are_those_of_ct(torsos):
    for torso in torsos:
        assert torso.hu.shape == torso.classes.shape == SHAPE
        assert np.median(torso.hu[:, 0]) == pytest.approx(-1000, abs=90)  # air in front of a body
        liver = torso.hu[torso.classes == 1]
        assert -60 < np.median(liver) < 240
        assert torso.hu.max() > 200  # bone


def test_splits_share_no_body_and_only_training_scans_have_no_labels(tmp_path):
    seen, codec = set(), VolumeCodec()
    for split, folder in write_torsos(tmp_path, {"train": 3, "labelled": 2, "test": 2}).items():
        shards = ShardSet(folder)
        for index in range(len(shards)):
            volume = codec.decode(shards.read(index))["volume"]
            assert (LABELS in volume.sequences) == (split != "train")
            assert volume.modality == "ct"
            seen.add(hashlib.sha256(volume.read().tobytes()).digest())
    assert len(seen) == 7


def test_the_control_differs_from_voco_in_the_labels_alone():
    config, encoder = (
        VoCoConfig(crop_size=16, hidden_dim=8, output_dim=8),
        zoo.create(f"{MODEL}-tiny"),
    )
    volume = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    true, shuffled = (
        kind(config, encoder).views({"volume": volume}, torch.Generator().manual_seed(1))
        for kind in (VoCo, ShuffledVoCo)
    )
    assert torch.equal(true["crops"], shuffled["crops"])
    assert torch.equal(true["labels"].sort().values, shuffled["labels"].sort().values)
    assert not torch.equal(true["labels"], shuffled["labels"])
