import warnings

import nibabel
import numpy as np
import pytest
import torch
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.modalities.volume.read import open_volume
from zoo.modalities.volume.volume import LABELS, Sequence, Volume

from zoo.errors import DataError

CODEC = VolumeCodec()
CUBE = (1.5, 1.5, 1.5)
SIZE = (24, 20, 16)
HU = np.full((40, 36, 30), -1000, np.int16)
HU[6:36, 5:31, 4:28] = np.random.default_rng(0).integers(-150, 240, (30, 26, 24))
RAW = {"volume": HU, "spacing": CUBE}
SHARD = CODEC.encode(RAW)
MRI = np.random.default_rng(1).normal(300, 90, (20, 18, 16)).astype(np.float32)


def make(**options):
    return VolumePreprocess(VolumePreprocessConfig(**{"size": SIZE, **options}))


def draws(preprocess, sample, seed):
    return preprocess.augment(sample, torch.Generator().manual_seed(seed))


def windowed(voxels):
    return np.clip((voxels.astype(np.float32) + 175) / 425, 0, 1)


def mri(**sequences):
    stored = {name: Sequence(voxels) for name, voxels in sequences.items()}
    return {"volume": Volume(sequences=stored, affine=np.eye(4), modality="mr")}


def test_all_that_is_raw_gives_the_same(tmp_path):
    path = tmp_path / "x.nii.gz"
    nibabel.save(nibabel.Nifti1Image(HU[::-1], np.diag([-1.5, 1.5, 1.5, 1])), path)
    preprocess = make()
    want = windowed(HU[6:36, 5:31, 4:28][3:27, 3:23, 4:20])
    for raw in (RAW, path, path.read_bytes(), CODEC.decode(SHARD), {"volume": path}):
        batch = preprocess(raw)
        assert batch["volume"].shape == (1, *SIZE)
        assert batch["volume"].is_contiguous()
        np.testing.assert_allclose(batch["volume"][0], want, atol=1e-6)
    two = preprocess.collate([batch, batch])
    assert (two["volume"].shape, two["present"].shape) == ((2, 1, *SIZE), (2, 1))


def test_small_volumes_are_padded_on_both_sides():
    small = make(size=(50, 20, 40))(RAW)["volume"][0]
    assert small.shape == (50, 20, 40)
    np.testing.assert_allclose(small[10:40, :, 8:32], windowed(HU[6:36, 8:28, 4:28]), atol=1e-6)
    assert not small[:10].any()


def test_training_crops_come_from_everywhere_and_repeat():
    preprocess, sample = make(flip=0.5), CODEC.decode(SHARD)
    first, again = (draws(preprocess, sample, 3)["volume"] for _ in range(2))
    assert torch.equal(first, again)
    inside, corners = windowed(HU[6:36, 5:31, 4:28]), set()
    for seed in range(60):
        crop = draws(preprocess, sample, seed)["volume"][0].numpy()
        for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
            mirrored = np.flip(crop, axes)
            found = np.argwhere(np.isclose(inside[:7, :7, :9], mirrored[0, 0, 0], atol=1e-6))
            for x, y, z in found:
                if np.allclose(inside[x : x + 24, y : y + 20, z : z + 16], mirrored, atol=1e-6):
                    corners.add((x, y, z, axes))
    assert len(corners) > 40
    assert len({axes for *_, axes in corners}) == 8


def test_a_crop_decodes_only_what_it_needs():
    large = np.tile(HU, (4, 4, 4))
    volume = CODEC.decode(CODEC.encode({"volume": large, "spacing": CUBE}))["volume"]
    read = []

    class Watched:
        def __init__(self, voxels):
            self.voxels, self.shape, self.dtype = voxels, voxels.shape, voxels.dtype

        def __getitem__(self, box):
            values = self.voxels[box]
            read.append(values.size)
            return values

    one = volume.sequences["ct"]
    watched = Sequence(Watched(one.voxels), one.slope, one.intercept, one.maxima)
    whole = Volume(sequences={"ct": watched}, affine=volume.affine, modality="ct")
    draws(make(), {"volume": whole, "facts": {}}, 0)
    assert read == [np.prod(SIZE)]


def test_shards_of_another_spacing_are_told():
    sample = CODEC.decode(CODEC.encode({"volume": HU, "spacing": (1.5, 1.5, 3.0)}))
    with pytest.warns(UserWarning, match="shards of 1.5 x 1.5 x 3 mm"):
        batch = make(size=(16, 16, 40))(sample)
    assert batch["volume"].shape == (1, 16, 16, 40)


def test_no_foreground_keeps_everything():
    with pytest.warns(UserWarning, match="without any intensity above -175"):
        batch = make()({"volume": np.full_like(HU, -1000), "spacing": CUBE})
    assert not batch["volume"].any()
    assert batch["volume"].shape == (1, *SIZE)


def test_resized_whole():
    batch = make(fit="resize", min_size=(1, 1, 1), size=(59, 26, 24))(RAW)
    np.testing.assert_allclose(batch["volume"][0, ::2], windowed(HU[6:36, 5:31, 4:28]), atol=1e-5)


def test_sequences_in_the_cards_order_and_missing_ones():
    names = ("t1", "t1ce", "flair")
    options = {"modality": "mr", "sequences": names, "spacing": (1.0, 1.0, 1.0), "fit": "centre"}
    preprocess = make(**options, intensity="z-score", crop_foreground=False, shift_intensity=0.1)
    dark = MRI.clip(200) - 200
    sample = mri(flair=dark, t1=MRI, t2=MRI)
    batch = preprocess(sample)
    assert batch["present"].tolist() == [True, False, True]
    volume = batch["volume"]
    inside = volume[0, 2:22, 1:19]
    assert inside.mean().abs() < 1e-5
    assert inside.std(correction=0) == pytest.approx(1, abs=1e-5)
    assert not volume[1].any()
    crop = dark.astype(np.float32)
    want = np.where(crop == 0, 0, (crop - crop[crop > 0].mean()) / crop[crop > 0].std())
    np.testing.assert_allclose(volume[2, 2:22, 1:19], want, atol=1e-4)
    shifted = draws(preprocess, sample, 0)["volume"]
    assert not shifted[1].any()
    assert 0 < (shifted[0] - volume[0]).abs().max() <= 0.1 + 1e-5
    with pytest.raises(DataError, match="holds t2, these weights take t1, t1ce, flair"):
        preprocess(mri(t2=MRI))
    shard = CODEC.decode(CODEC.encode(sample))
    torch.testing.assert_close(preprocess(shard)["volume"], volume, atol=1e-3, rtol=0)


def test_labels_come_along():
    labels = (HU > 0).astype(np.uint8) * 5
    sequences = {"ct": Sequence(HU), LABELS: Sequence(labels)}
    affine = np.diag([*CUBE, 1.0])
    sample = {"volume": Volume(sequences=sequences, affine=affine, modality="ct")}
    batch = draws(make(flip=0.5), CODEC.decode(CODEC.encode(sample)), 5)
    assert batch[LABELS].dtype == torch.int16
    # HU above 0 are above 175 / 425 in the window.
    assert torch.equal(batch[LABELS] == 5, batch["volume"] > 175.5 / 425)


def test_modalities_do_not_mix(tmp_path):
    preprocess = make()
    with pytest.raises(DataError, match="is mr, these weights take ct"):
        preprocess(mri(ct=MRI))
    with pytest.raises(DataError, match="CT or MRI"):
        preprocess(MRI)
    nibabel.Nifti1Image(MRI, np.eye(4)).to_filename(tmp_path / "scan.nii")
    with pytest.raises(DataError, match=r"scan\.nii: CT or MRI"):
        preprocess(tmp_path / "scan.nii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert preprocess({"volume": MRI, "modality": "ct"})["volume"].shape == (1, *SIZE)
    brain = make(modality="mr", sequences=("t1",), spacing=(1.0, 1.0, 1.0), intensity="z-score")
    assert brain(MRI)["volume"].shape == (1, *SIZE)
    with pytest.raises(DataError, match="is ct, these weights take mr"):
        brain(HU)
    assert open_volume(HU).modality == ""


def test_bad_constants_are_refused():
    with pytest.raises(ValueError, match="window"):
        VolumePreprocessConfig(window=(250.0, -175.0))
    with pytest.raises(ValueError, match="positive"):
        VolumePreprocessConfig(size=(0, 64, 64))
