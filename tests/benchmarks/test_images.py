"""Tables of ImageNet and ChestX-ray14, offline: the scripts, on images in the sets' own layouts."""

import csv
import json
from functools import partial

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from zoo.benchmarks.tables import chestxray14, imagenet_mae
from zoo.benchmarks.tables.models import published
from zoo.hub.export import save_export
from zoo.registry.build import encoder_spec

import zoo
from zoo.data.building.build import build_shards
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError

SMALL = {"dim": 24, "depth": 1, "heads": 2, "img_size": 32}
RNG = np.random.default_rng(0)


def picture(path, *parts):
    """Noise, and bright quarters."""
    image = RNG.integers(0, 90, (40, 44), dtype=np.uint8)
    for part in parts:
        row, column = divmod(part, 2)
        image[20 * row : 20 * row + 20, 22 * column : 22 * column + 22] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 12), ("val", 6)):
        for number, name in enumerate(("n01440764", "n01443537", "n01484850")):
            for i in range(count):
                picture(root / split / name / f"{name}_{i}.JPEG", number)
    return root


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    root, rows = tmp_path_factory.mktemp("nih"), []
    for i in range(36):
        shown = [0, 3] if i % 4 == 3 else [0] if i % 4 == 1 else [3] if i % 4 == 2 else []
        name = f"{i:08d}_000.png"
        picture(root / f"images_{i % 2 + 1:03d}" / "images" / name, *shown)
        found = "|".join(chestxray14.FINDINGS[n] for n in shown) or "No Finding"
        rows.append({"Image Index": name, "Finding Labels": found, "Patient ID": i})
    with (root / "Data_Entry_2017.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    names = [row["Image Index"] for row in rows]
    (root / "train_val_list.txt").write_text("\n".join(names[:24]))
    (root / "test_list.txt").write_text("\n".join(names[24:]))
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "export"
    made = zoo.create("medical-mae-small", seed=0, **SMALL)
    save_export(folder, made, encoder_spec("medical-mae-small", SMALL))
    return folder


def run(command, cache, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(cache))
        patch.setattr(imagenet_mae, "build_shards", partial(build_shards, workers=0))
        out = cache / "numbers.json"
        words = [*words, "--out", out]
        done = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output, json.loads(out.read_text())["lines"]


QUICK = ("epochs=4", "batch_size=12", "warmup=0.1", "lr=3e-3")


def test_imagenet(imagenet, encoder, tmp_path):
    words = (encoder, *QUICK, "--source", imagenet, "--line", "fine-tune", "--line", "linear")
    text, lines = run(imagenet_mae.command, tmp_path, *words, "--seeds", 2)
    assert f"from {imagenet}: 36 train (1,281,167), 18 val (50,000)" in text
    assert [line["line"] for line in lines] == ["fine-tune 224", "linear probe"]
    assert all(len(line["accuracy"]) == 2 for line in lines)
    assert "layer decay 0.65" in lines[0]["protocol"]
    assert "standardised by batch" in lines[1]["protocol"]
    assert "lars" in lines[1]["protocol"]
    assert [line["published"] for line in lines] == [None, None]
    [place] = (tmp_path / "imagenet").glob("*/val")
    assert ShardSet(place).read(0).keys() >= {"cls"}
    with pytest.raises(UsageError, match="the lines are fine-tune 224, linear probe, kNN"):
        run(imagenet_mae.command, tmp_path, *words[:1], "--source", imagenet, "--line", "knn")
    with pytest.raises(UsageError, match="ImageNet lies in train/CLASS"):
        run(imagenet_mae.command, tmp_path, encoder, "--source", tmp_path)


def test_chestxray14(chests, encoder, tmp_path):
    text, lines = run(chestxray14.command, tmp_path, encoder, *QUICK, "--source", chests)
    assert "24 and 12 images (published: 86,524 and 25,596)" in text
    assert [line["line"] for line in lines] == [line.name for line in chestxray14.LINES]
    assert all("binary cross-entropy" in line["protocol"] for line in lines)
    assert all(0 < line["auroc"][0] <= 1 for line in lines)
    assert "published of" not in text  # of this encoder nothing was published
    [place] = (tmp_path / "chestxray14").glob("*/train_val_list")
    facts = [json.loads(bytes(ShardSet(place).read(i)["json"])) for i in range(4)]
    assert [one["labels"] for one in facts] == [[], [0], [3], [0, 3]]


def test_what_is_missing_of_a_data_set_is_named(chests, tmp_path):
    with pytest.raises(UsageError, match=r"no Data_Entry_2017\.csv"):
        chestxray14._findings(tmp_path)
    table = (chests / "Data_Entry_2017.csv").read_text()
    (tmp_path / "Data_Entry_2017.csv").write_text(table)
    with pytest.raises(UsageError, match="it is the official list"):
        list(chestxray14._members(tmp_path, "test_list.txt"))
    (tmp_path / "test_list.txt").write_text("00000030_000.png")
    with pytest.raises(DataError, match=r"00000030_000\.png of test_list\.txt lacks a row or a f"):
        list(chestxray14._members(tmp_path, "test_list.txt"))
    (tmp_path / "Data_Entry_2017.csv").write_text(table.replace("Atelectasis", "Oedema"))
    with pytest.raises(DataError, match="not the data set's table"):
        chestxray14._findings(tmp_path)


def test_published_numbers_and_recipes_by_size():
    assert published("mae-base", "ImageNet-1k", "accuracy@1")["linear probe"] == 67.8
    assert published("runs/mine", "ImageNet-1k", "accuracy@1") == {}
    assert published("medical-mae", "ChestX-ray14", "AUROC %") == {"fine-tuned": 82.3}
    base, huge = (imagenet_mae.lines_of(size)[0] for size in ("base", "huge"))
    assert (base.options["lr"], base.options["layer_decay"]) == (2e-3, 0.65)
    assert (huge.options["epochs"], huge.encoder["drop_path"]) == (50, 0.3)


def test_fine_tuning_gets_a_norm_of_its_own(tmp_path):
    from safetensors.torch import save_file

    save_file(zoo.create("mae-base", seed=0, **SMALL).state_dict(), tmp_path / "mae.safetensors")
    encoder = zoo.load("mae-base", weights=tmp_path / "mae.safetensors", pool="mean_norm", **SMALL)
    assert encoder.load_report.new == ("fc_norm.weight", "fc_norm.bias")
    assert set(encoder.load_report.ignored) == {"norm.weight", "norm.bias"}
    assert (encoder.fc_norm.weight == 1).all()
