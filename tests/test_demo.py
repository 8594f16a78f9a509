"""`zoo demo --quick`: every part of the main job, with too few steps to be good."""

import html
import re

import pytest
from browser import assert_fits, measured, needs_chromium
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.vision.codec import VisionCodec

from zoo.data.shards import ShardSet
from zoo.demo import results
from zoo.demo.digits import write_digits
from zoo.demo.run import run_demo
from zoo.demo.stdlib import is_held_out


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    run_demo(out, quick=True)
    return out


def test_report_is_whole_and_self_contained(demo):
    text = (demo / "report.html").read_text()
    assert not re.search(r"(src|href)=\"?(https?:)?//", text)
    assert "<script src" not in text
    assert "@import" not in text
    for part in (
        *("raw pixels", "same encoder, random weights", "zoo: MAE pretrained"),
        *("supervision by words", "text to image, R@5", "zoo: CLIP pretrained", "of no caption"),
        *("No real bird", "mean spectrum, linear", "zoo: MAE pretrained, prototypical"),
        *("bigrams, both neighbours", "TF-IDF of words", "zoo: masked LM pretrained"),
        *("No scan of anybody", "VoCo, shuffled labels", "zoo: VoCo", "hidden patches filled in"),
        *("Held out: breast_cancer and wine", "zoo: columns + pretrained"),
        *("data:image/png;base64,", "<svg", "class=miss", "bit-identical", "A quick run"),
    ):
        assert part in text
    assert len(text) < 1_000_000


@needs_chromium
def test_it_fits_telephones_and_desks(demo):
    assert_fits(measured((demo / "report.html").read_text()))


def test_results_are_kept(demo):
    found = results.read(demo)
    text = (demo / "report.html").read_text()
    assert len(found.parts) == 6
    assert found.quick
    for part in found.parts:
        assert html.escape(part.title) in text
        assert {len(row.scores) for row in part.rows} == {len(part.measures)}


def test_again_reuses_what_is_there(demo, capsys):
    before = (demo / "digits" / "run" / "export" / "config.json").stat().st_mtime_ns
    run_demo(demo, quick=True)
    assert (demo / "digits" / "run" / "export" / "config.json").stat().st_mtime_ns == before
    shown = capsys.readouterr().out
    assert "features bit-identical" in shown
    assert "report.html" in shown.replace("\n", "")


def test_no_scan_is_on_both_sides(tmp_path):
    sides = []
    for folder in write_digits(tmp_path).values():
        shards, codec = ShardSet(folder), VisionCodec()
        samples = [codec.decode(shards.read(i)) for i in range(len(shards))]
        sides.append({sample["image"].numpy().tobytes() for sample in samples})
        assert max(int(sample["image"].max()) for sample in samples) == 240
    assert len(sides[0]) + len(sides[1]) == 1797
    assert not sides[0] & sides[1]


def test_no_module_and_no_text_is_on_both_sides(demo):
    texts, modules = [], []
    for split in ("train", "test"):
        shards, codec = ShardSet(demo / "code" / "shards" / split), CodeCodec()
        samples = [codec.decode(shards.read(i)) for i in range(len(shards))]
        texts.append([sample["text"] for sample in samples])
        modules.append({sample["facts"]["module"] for sample in samples})
    assert not modules[0] & modules[1]
    assert not set(texts[0]) & set(texts[1])
    assert len(set(texts[0])) == len(texts[0])
    assert all(map(is_held_out, modules[1]))
    assert not any(map(is_held_out, modules[0]))
