"""Segmentation with pretrained encoders, and what is told from frozen features by regression."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.volume import LABELS, Sequence, Volume

import zoo
from zoo.errors import DataError, UsageError
from zoo.probes.ridge import ridge_probe
from zoo.probes.segmentation import (
    DiceScore,
    SegmentationRecipe,
    _network,
    measure_segmenter,
    probe_segmentation,
    train_segmenter,
)
from zoo.probes.volumes import LabelledVolumes

RNG = np.random.default_rng(0)
EXCLUSIVE = {"bright": (1,), "dark": (2, 3)}
NESTED = {"inner": (1,), "outer": (1, 2)}
SHORT = SegmentationRecipe(
    epochs=1, warmup=0, crops=2, roi=(16, 16, 16), overlap=0.0, lr=3e-3, flip=0.0
)


def body(*, shift=0):
    """A bright and a dark box in CT; classes 1 and 2, and one voxel of 3."""
    classes = np.zeros((24, 20, 18), np.uint8)
    classes[4 + shift : 12 + shift, 4:12, 4:12], classes[14:20, 8:16, 6:14] = 1, 2
    classes[0, 0, 0] = 3
    hu = np.select([classes == 1, classes == 2], [200, -120], 40) + RNG.normal(0, 5, classes.shape)
    return hu.astype(np.int16), classes


def sample(hu, classes):
    sequences = {"ct": Sequence(hu), LABELS: Sequence(classes)}
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    return {"volume": Volume(sequences=sequences, affine=affine, modality="ct")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder, codec = tmp_path_factory.mktemp("volumes") / "shards", VolumeCodec()
    bodies = (sample(*body(shift=shift)) for shift in (0, 2, 1))
    zoo.write_shards(((f"{i}", codec.encode(one)) for i, one in enumerate(bodies)), folder)
    return folder


@pytest.fixture(scope="module")
def encoder():
    own = {"size": [24, 24, 24], "spacing": [8.0, 8.0, 8.0], "crop_foreground": True}
    made = zoo.create("torsos-voco-tiny", seed=0, preprocess=own, widths=[8, 16])
    return made.eval()


def test_labels_follow_their_voxels(shards, encoder):
    _, classes = body()
    volume, found = LabelledVolumes(encoder, shards, EXCLUSIVE).read(0)
    assert volume.shape == found.shape == (1, *classes.shape)
    assert torch.equal(found[0], torch.tensor(np.array([0, 1, 2, 2], np.uint8)[classes]))
    assert volume[found == 1].min() > 0.7 > volume[found == 0].max()
    _, found = LabelledVolumes(encoder, shards, NESTED, chosen=[2]).read(0)
    assert found.shape == (2, *classes.shape)
    assert bool((found[1] >= found[0]).all())
    assert found.sum(dim=(1, 2, 3)).tolist() == [
        (classes == 1).sum(),
        np.isin(classes, [1, 2]).sum(),
    ]


def test_a_network_learns_and_its_dice_says_so(shards, encoder):
    recipe = SegmentationRecipe(
        epochs=80, warmup=2, batch_size=2, crops=1, roi=(24, 24, 24), lr=1e-2, flip=0.0, overlap=0.0
    )
    fit = LabelledVolumes(encoder, shards, NESTED, chosen=[0, 1])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    network = train_segmenter(fit, recipe, seed=0)
    score = measure_segmenter(network, LabelledVolumes(encoder, shards, NESTED), recipe)
    assert score.dice.shape == (3, 2)
    assert score.mean > 0.7
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_seed_is_a_run(shards, encoder):
    scores = [
        probe_segmentation(encoder, shards, shards, NESTED, recipe=SHORT, seed=seed).dice
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_a_frozen_encoder_stays(shards, encoder):
    recipe = SegmentationRecipe(epochs=1, warmup=0, roi=(16, 16, 16), crops=1, frozen=True)
    network = train_segmenter(LabelledVolumes(encoder, shards, EXCLUSIVE), recipe, seed=0)
    for name, value in encoder.state_dict().items():
        assert torch.equal(network.encoder.state_dict()[name], value)
    free = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert free == {"up", "merge", "out"}


@pytest.mark.parametrize("name", ["voco-base", "bm-mae-base"])
def test_monais_networks_freeze_their_encoders_alone(shards, name):
    small = {"feature_size": 12, "num_heads": (1, 2, 2, 2)} if name == "voco-base" else {}
    own = {"sequences": ["ct"], "modality": "ct", "size": [32, 32, 32]}
    shape = small or {"dim": 24, "depth": 1, "heads": 2}
    made = zoo.create(name, seed=0, preprocess=own, **shape)
    recipe = SegmentationRecipe(frozen=True)
    network = _network(LabelledVolumes(made, shards, EXCLUSIVE), recipe)
    free = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    decoder = {"decoder1", "decoder2", "decoder3", "decoder4", "decoder5", "out"}
    convolutions = {"encoder1", "encoder2", "encoder3", "encoder4"}
    wanted = decoder if name == "voco-base" else decoder - {"decoder1"} | convolutions
    assert free == wanted


def test_structures_that_no_volume_holds_are_no_part_of_the_mean():
    dice = np.array([[0.5, np.nan, np.nan], [0.7, 0.2, np.nan]])
    score = DiceScore(names=("a", "b", "c"), dice=dice, protocol="")
    assert score.structures["a"] == pytest.approx(0.6)
    assert np.isnan(score.structures["c"])
    assert score.mean == pytest.approx(0.4)


def test_bad_inputs_are_one_line(shards, encoder, tmp_path):
    hu, _ = body()
    members = VolumeCodec().encode({"volume": hu, "modality": "ct"})
    zoo.write_shards([("7", members)], tmp_path / "bare")
    with pytest.raises(DataError, match=r"7.*: no labels \(a member seg\.b2nd\)"):
        LabelledVolumes(encoder, tmp_path / "bare", EXCLUSIVE).read(0)
    with pytest.raises(UsageError, match="has classes, from 1 on"):
        LabelledVolumes(encoder, shards, {"air": (0,)})
    with pytest.raises(UsageError, match="needs an encoder of volumes"):
        LabelledVolumes(zoo.create("digits-mae-tiny"), shards, EXCLUSIVE)
    with pytest.raises(ValueError, match="overlap and positive"):
        SegmentationRecipe(overlap=1.0)


def test_ridge_is_sklearns_with_a_penalty_from_the_training_set():
    x, test = RNG.normal(size=(60, 8)), RNG.normal(size=(30, 8))
    weights = RNG.normal(size=(8, 3))
    y, wanted = x @ weights + 0.1 * RNG.normal(size=(60, 3)), test @ weights
    wanted[:, 2] = 1.0
    found = ridge_probe(x, y, test, wanted, groups=np.arange(60) // 12)
    scaler = StandardScaler().fit(x)
    told = Ridge(alpha=1.0).fit(scaler.transform(x), y).predict(scaler.transform(test))
    errors = np.square(told - wanted).mean(axis=0)
    assert found[:2] == pytest.approx(1 - errors[:2] / wanted.var(axis=0)[:2])
    assert np.isnan(found[2])


def test_other_probes_take_volumes(tmp_path, encoder):
    codec = VolumeCodec()
    parts = (
        (f"{i}", codec.encode(sample(*body(shift=i % 2)) | {"label": i % 2})) for i in range(12)
    )
    zoo.write_shards(parts, tmp_path / "shards")
    for kind in ("knn", "linear"):
        score = zoo.probe(encoder, tmp_path / "shards", tmp_path / "shards", kind=kind, k=3)
        assert 0.5 <= score.accuracy <= 1
