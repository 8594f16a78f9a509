import numpy as np
import pytest
import torch
from zoo.modalities.volume import resample as module
from zoo.modalities.volume.resample import resample
from zoo.modalities.volume.transforms import orient, resize, standardise, window
from zoo.modalities.volume.volume import LABELS, Sequence, Volume

from zoo.errors import DataError

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(-1024, 3072, (15, 12, 9), dtype=np.int16)
TURN, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
CASES = {
    "finer": (np.diag([0.8, 0.8, 2.5]), (1.5, 1.5, 1.5)),
    "halves": (np.diag([0.75, 0.75, 3.0]), (1.5, 1.5, 1.5)),  # sizes end on .5
    "flipped": (np.diag([-0.7, 1.0, -5.0]), (1.25, 1.25, 5.0)),
    "permuted": (np.array([[0, 0, 2.0], [-1, 0, 0], [0, 1.5, 0]]), (1.0, 0.9, 1.1)),
    "turned": (TURN @ np.diag([0.9, 1.1, 2.0]), (1.0, 1.0, 1.0)),
    "sheared": (np.array([[1, 0, 0.3], [0, 1.0, 0], [0, 0.2, 2.0]]), (1.5, 1.5, 1.5)),
    "near": (np.diag([1.5004, 1.2, 1.5]), (1.5, 1.5, 1.5)),  # MONAI leaves the first axis alone
}


def volume_of(grid, voxels=VOXELS, **more):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid, (-12.5, 30.0, 7.25)
    return Volume(sequences={"ct": Sequence(voxels), **more}, affine=affine, modality="ct")


@pytest.mark.parametrize("case", CASES)
def test_equals_monai(case, monkeypatch):
    transforms = pytest.importorskip("monai.transforms")
    meta = pytest.importorskip("monai.data").MetaTensor
    grid, spacing = CASES[case]
    volume = volume_of(grid)
    values = meta(torch.from_numpy(volume.read()), affine=torch.from_numpy(volume.affine))
    want = transforms.Spacing(spacing, mode="bilinear")(values)
    if case != "sheared":
        monkeypatch.setattr(module, "_by_monai", None)
    got = resample(volume, spacing)
    assert got.shape == tuple(want.shape[1:])
    assert np.abs(got.read() - want.numpy()).max() < 1e-4
    np.testing.assert_allclose(got.affine, want.affine, atol=1e-9)


@pytest.mark.parametrize("case", ["flipped", "permuted", "turned"])
def test_other_steps_equal_monai(case):
    transforms = pytest.importorskip("monai.transforms")
    meta = pytest.importorskip("monai.data").MetaTensor
    volume = volume_of(CASES[case][0])
    values = torch.from_numpy(volume.read())
    turned = transforms.Orientation("RAS", labels=None)(
        meta(values, affine=torch.from_numpy(volume.affine))
    )
    got = orient(volume)
    assert np.array_equal(got.read(), turned.numpy())
    np.testing.assert_allclose(got.affine, turned.affine, atol=1e-9)
    ranged = transforms.ScaleIntensityRange(-175, 250, 0, 1, clip=True)(values)
    assert torch.equal(window(values, -175, 250), ranged)
    values[:, :3] = 0
    normal = transforms.NormalizeIntensity(nonzero=True, channel_wise=True)(values.clone())
    torch.testing.assert_close(standardise(values), normal)
    sized = transforms.Resize((20, 8, 9), mode="trilinear", align_corners=True)(values)
    assert torch.equal(resize(values, (20, 8, 9)), sized.as_tensor())


def test_stored_scale_is_applied_and_labels_stay_labels():
    labels = (VOXELS > 0).astype(np.uint8) * 7
    scaled = Sequence(VOXELS.astype(np.uint16), 0.5, -10.0)
    volume = volume_of(np.diag([1, 1, 2.0]), t1=scaled, **{LABELS: Sequence(labels)})
    got = resample(volume, (1.0, 1.0, 1.0))
    assert got.shape == (15, 12, 17)
    assert set(np.unique(got.read([LABELS]))) == {0, 7}
    assert np.array_equal(got.read(["t1"])[..., ::2], volume.read(["t1"]))
    between = (volume.read(["t1"])[..., 1:] + volume.read(["t1"])[..., :-1]) / 2
    np.testing.assert_allclose(got.read(["t1"])[..., 1::2], between, rtol=1e-6)


def test_single_planes_and_bounds():
    assert resample(volume_of(np.eye(3), VOXELS[:, :, :1]), (2.0, 2.0, 2.0)).shape == (8, 6, 1)
    same = volume_of(np.diag([1.5, 1.5, 1.5]))
    assert resample(same, (1.5, 1.5, 1.5)) is same
    with pytest.raises(DataError, match="limit") as caught:
        resample(volume_of(np.diag([500.0, 500.0, 500.0])), (0.1, 0.1, 0.1))
    assert caught.value.code == "TOO_LARGE"
