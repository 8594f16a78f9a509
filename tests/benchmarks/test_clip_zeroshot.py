"""The zero-shot table, offline: the script, on images in the sets' own layouts and tiny towers."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from zoo.benchmarks.tables import clip_zeroshot
from zoo.benchmarks.tables.clip_published import PUBLISHED
from zoo.hub.export import save_export
from zoo.registry import open_clip_models
from zoo.registry.build import encoder_spec

import zoo
from zoo.errors import DataError, UsageError

pytest.importorskip("open_clip")
RNG = np.random.default_rng(0)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (10, 12), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(("n01440764", "n01443537", "n01484850")):
        for i in range(4):
            picture(root / "imagenet" / name / f"{i}.JPEG")
            picture(root / "imagenet-v2" / str(number) / f"{i}.jpeg")
    rows = []
    for i in range(8):
        sentences = [{"raw": f"thing {i} seen {n} times"} for n in range(5)]
        split = "train" if i > 5 else "test"
        rows.append({"filename": f"{i}.png", "split": split, "sentences": sentences})
        picture(root / "flickr30k" / "images" / f"{i}.png")
    (root / "flickr30k" / "dataset.json").write_text(json.dumps({"images": rows}))
    return root


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """With random weights; its tokenizer knows bytes alone."""
    folder = tmp_path_factory.mktemp("towers") / "export"
    made = zoo.create("digits-clip", seed=0)
    made.preprocess.fit([{"text": "a"}])
    save_export(folder, made, encoder_spec("digits-clip", {}))
    return folder


def run(*words):
    done = CliRunner().invoke(clip_zeroshot.command, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_what_is_there_is_measured(sets, towers, tmp_path):
    text = run(towers, "--source", sets, "--out", tmp_path / "numbers.json")
    found = json.loads((tmp_path / "numbers.json").read_text())["sets"]
    assert [*found] == ["imagenet", "imagenet-v2", "flickr30k"]
    assert "left out: imagenet-sketch, imagenet-a, imagenet-r, coco" in text
    assert set(found["flickr30k"]) == {"image R@1", "image R@5", "text R@1", "text R@5"}
    assert found["flickr30k"]["image R@5"] >= found["flickr30k"]["image R@1"]
    assert all(0 <= value <= 100 for one in found.values() for value in one.values())


def test_names_and_templates_are_openai_s(sets, towers):
    encoder, asked = zoo.load(towers), []
    encode = encoder.encode_text
    encoder.encode_text = lambda texts, **options: asked.append(texts) or encode(texts, **options)
    clip_zeroshot.classify(encoder, sets / "imagenet")
    assert [len(texts) for texts in asked] == [80, 80, 80]
    assert asked[2][0] == "a bad photo of a great white shark."


def test_recall_counts_any_caption_of_an_image(sets, towers):
    pairs = clip_zeroshot.read_pairs(sets / "flickr30k")
    assert (len(pairs.images), len(pairs.captions)) == (6, 30)
    assert pairs.owner.tolist() == [i for i in range(6) for _ in range(5)]
    encoder, eye = zoo.load(towers), np.eye(6, 8, dtype=np.float32)
    encoder.embed = lambda inputs: eye[[int(path.stem) for path in inputs]]

    def text(texts, **_):  # the third caption of each image alone is like it
        rows = [eye[int(t.split()[1])] if "seen 2 " in t else eye[0] / 2 for t in texts]
        return torch.from_numpy(np.array(rows))

    encoder.encode_text = text
    found = clip_zeroshot.retrieve(encoder, pairs)
    assert found["text R@1"] == 100
    assert found["image R@1"] == pytest.approx(100 * (6 + 4) / 30)  # all others find the first


def test_what_is_wrong_is_named(sets, towers, tmp_path):
    with pytest.raises(UsageError, match=r"imagenet-a: no such folder"):
        run(towers, "--source", sets, "--set", "imagenet-a")
    with pytest.raises(UsageError, match="holds none of imagenet, imagenet-v2"):
        run(towers, "--source", tmp_path)
    (tmp_path / "imagenet" / "fish").mkdir(parents=True)
    with pytest.raises(UsageError, match="fish: neither the WordNet id nor the number"):
        run(towers, "--source", tmp_path)
    (tmp_path / "coco").mkdir()
    with pytest.raises(UsageError, match="it is Karpathy's split"):
        run(towers, "--source", tmp_path, "--set", "coco")
    (tmp_path / "coco" / "dataset.json").write_text('{"images": [{}]}')
    with pytest.raises(DataError, match="not Karpathy's list"):
        run(towers, "--source", tmp_path, "--set", "coco")


def test_published_numbers_are_those_of_the_weights():
    known = clip_zeroshot._known("open-clip/ViT-B-32.laion2b_s34b_b79k")
    assert known["imagenet"]["accuracy"] == 66.56
    assert list(known["coco"].values()) == [39.34, 65.43, 56.32, 79.84]
    assert clip_zeroshot._known("runs/mine/") == {}
    rows = {row.name: row.tags for row in open_clip_models.rows()}
    for name in PUBLISHED:
        base, _, tag = name.partition(".")
        assert tag in rows[base]
