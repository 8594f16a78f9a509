"""BTCV's and BraTS's tables, offline: the scripts, on made-up volumes in the data sets' layouts."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from zoo.benchmarks.tables import brats, btcv
from zoo.benchmarks.tables.volumes import LINES, constants, write_cases
from zoo.hub.export import save_export
from zoo.registry.build import encoder_spec

import zoo
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError

nibabel = pytest.importorskip("nibabel")

SHAPE, AFFINE = (40, 32, 32), np.diag([-8.0, -8.0, 8.0, 1.0])
RNG = np.random.default_rng(0)


def write(path, voxels, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(voxels, affine).to_filename(path)


def organs(count):
    """Blocks of `count` classes along the first axis, air around."""
    classes = np.zeros(SHAPE, np.uint8)
    for number in range(1, count + 1):
        start = 1 + 38 * (number - 1) // count
        classes[start : start + 38 // count, 4:28, 4:28] = number
    return classes


@pytest.fixture(scope="module")
def btcv_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("btcv")
    names = [f"{number:04d}" for number in (1, 2, 35)]
    for name in names:
        classes = organs(13)
        hu = np.where(classes > 0, 30 * classes.astype(float) - 150, -1000)
        write(
            root / "imagesTr" / f"img{name}.nii.gz", (hu + RNG.normal(0, 9, SHAPE)).astype("int16")
        )
        write(root / "labelsTr" / f"label{name}.nii.gz", classes)
    rows = [
        {"image": f"imagesTr/img{name}.nii.gz", "label": f"labelsTr/label{name}.nii.gz"}
        for name in names
    ]
    listed = {"training": rows[:2], "validation": rows[2:]}
    (root / "dataset.json").write_text(json.dumps(listed))
    return root


@pytest.fixture(scope="module")
def brats_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("brats")
    for number in range(5):
        name = f"BraTS2021_{number:05d}"
        classes = organs(3)
        classes[classes == 3] = 4
        for sequence in brats.SEQUENCES:
            values = 50 * classes + RNG.integers(0, 40, SHAPE)
            write(root / name / f"{name}_{sequence}.nii.gz", values.astype("int16"))
        write(root / name / f"{name}_seg.nii.gz", classes)
    return root


def export(folder, **preprocess):
    """A tiny BM-MAE, whose network MONAI builds in no time."""
    own = {"spacing": [8.0] * 3, "size": [32, 32, 32], **preprocess}
    small = {"dim": 24, "depth": 1, "heads": 2}
    spec = encoder_spec("bm-mae-base", small, own)
    save_export(folder, zoo.create("bm-mae-base", seed=0, preprocess=own, **small), spec)
    return folder


@pytest.fixture(scope="module")
def of_ct(tmp_path_factory):
    own = {"modality": "ct", "sequences": ["ct"], "intensity": "window", "crop_foreground": True}
    return export(tmp_path_factory.mktemp("ct") / "export", **own)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return export(tmp_path_factory.mktemp("mr") / "export", sequences=["t1", "flair"])


def run(command, cache, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(cache))
        done = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_btcv(btcv_folder, of_ct, tmp_path):
    out = tmp_path / "numbers.json"
    short = ("epochs=1", "warmup=0", "crops=1", "roi=[32, 32, 32]", "overlap=0.0")
    text = run(btcv.command, tmp_path, of_ct, *short, "--source", btcv_folder, "--out", out)
    assert text.startswith(f"BTCV from {btcv_folder}: 2 training, 1 validation (published: 24 and")
    lines = json.loads(out.read_text())["lines"]
    assert [line["line"] for line in lines] == list(LINES)
    for line in lines:
        assert line["structures"][0].keys() == set(btcv.ORGANS)
        assert line["volumes"] == [1] * 13
        assert 0 <= line["mean"][0] <= 1
    assert "frozen encoder, 1 epochs" in lines[1]["protocol"]
    assert len({line["mean"][0] for line in lines}) > 1
    assert all(organ in text for organ in btcv.ORGANS)
    assert "published of others" not in text  # of this encoder nothing was published
    [shards] = (tmp_path / "btcv" / "training").glob("*-8-8-8")
    facts = json.loads(bytes(ShardSet(shards).read(0)["json"]))
    assert facts["sequences"].keys() == {"ct", "seg"}


def test_brats_with_a_subset_of_sequences(brats_folder, of_two, tmp_path):
    out = tmp_path / "numbers.json"
    short = ("epochs=1", "warmup=0", "overlap=0.0", "--line", "fine-tuned")
    text = run(brats.command, tmp_path, of_two, *short, "--source", brats_folder, "--out", out)
    assert "5 cases (published: 1251), fold 0, t1, flair" in text
    [line] = json.loads(out.read_text())["lines"]
    assert line["structures"][0].keys() == brats.REGIONS.keys()
    assert "batches of 2 x 1 crops of 32 x 32 x 32" in line["protocol"]
    assert line["published"] == "-"


def test_published_numbers_stand_beside_the_model_they_are_of():
    assert btcv.expected("voco-base") == {"fine-tuned": "86.64%", "from scratch": "82.79%"}
    assert btcv.expected("voco-large") == btcv.expected("runs/mine") == {}


def test_a_mask_on_another_grid_is_one_line(btcv_folder, tmp_path):
    [case, *_] = btcv.cases(btcv_folder, "training")
    label = tmp_path / "label.nii.gz"
    case.files["seg.nii.gz"] = label
    for voxels, affine in ((organs(13)[:-1], AFFINE), (organs(13), AFFINE + np.eye(4))):
        write(label, voxels, affine)
        with pytest.raises(DataError, match=r"^img0001: the files .* several grids") as caught:
            write_cases([case], tmp_path / "shards", (8.0, 8.0, 8.0))
        assert "\n" not in str(caught.value)
    label.unlink()
    with pytest.raises(DataError, match=r"label\.nii\.gz: No such file"):
        write_cases([case], tmp_path / "shards", (8.0, 8.0, 8.0))


def test_bad_sources(tmp_path, of_ct, btcv_folder):
    with pytest.raises(UsageError, match=r"dataset\.json: No such file"):
        btcv.cases(tmp_path, "training")
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "x"}]}')
    with pytest.raises(UsageError, match='no list "training" of pairs'):
        btcv.cases(tmp_path, "training")
    with pytest.raises(UsageError, match="0 folders like BraTS2021_00000"):
        brats.cases(tmp_path)
    with pytest.raises(UsageError, match="needs an encoder of volumes"):
        constants(zoo.create("digits-mae-tiny"))
    with pytest.raises(UsageError, match="the lines are fine-tuned"):
        run(btcv.command, tmp_path, of_ct, "--source", btcv_folder, "--line", "tuned")
    with pytest.raises(UsageError, match="no sequence t3"):
        run(brats.command, tmp_path, of_ct, "--source", tmp_path, "--sequences", "t1,t3")
