"""`zoo report`: one page that says what the run's files say, of runs in any state."""

import html
import json
import re
import shutil

import numpy as np
import pytest
import torch
from browser import assert_fits, measured, needs_chromium
from click.testing import CliRunner
from zoo.modalities.vision.codec import VisionCodec
from zoo.objectives.mae import MAE
from zoo.registry.build import build_objective

import zoo
from zoo.cli.report import command
from zoo.errors import UsageError
from zoo.lock import locked
from zoo.pretraining import LOCK
from zoo.report.chart import Curve, _label, _powers, _thin, _ticks, _value, chart
from zoo.report.run import write_report

TINY = {
    "encoder.dim": 24,
    "encoder.depth": 1,
    "objective.decoder_dim": 16,
    "train.steps": 4,
    "train.batch_size": 8,
    "train.log_every": 1,
    "loader.workers": 0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    samples = (
        (f"{i:03d}", VisionCodec().encode({"image": rng.integers(0, 256, (8, 8), dtype=np.uint8)}))
        for i in range(40)
    )
    zoo.write_shards(samples, folder / "shards")
    return zoo.pretrain("digits-mae", folder / "shards", folder / "run", TINY, progress=False)


@pytest.fixture
def copy(run, tmp_path):
    skip = shutil.ignore_patterns("report.html")
    return shutil.copytree(run.folder, tmp_path / "run", ignore=skip)


def read(folder):
    """The page's text without tags, and its charts' data by title."""
    page = write_report(folder).read_text()
    charts = {}
    for data, title in re.findall(r'data-chart="([^"]*)"><div class=said><b>([^<]*)', page):
        charts[title] = json.loads(html.unescape(data))["curves"][0]
    return page, html.unescape(re.sub(r"<[^>]+>", " ", page.partition("<main>")[2])), charts


def test_page_tells_what_the_run_wrote(run):
    page, text, charts = read(run.folder)
    assert "finished" in text
    assert "not finished" not in text
    assert re.search(r"samples seen\s+32\s+0.8 epochs", text)
    loss = charts["Loss"]
    assert loss["x"] == [1, 2, 3, 4]
    assert loss["y"] == pytest.approx([row["loss"] for row in run.metrics], rel=1e-4)
    assert charts["Waiting for data, % of the time"]["y"][0] > 0
    assert "Bad samples so far" not in charts
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["torch"] in text
    assert facts["data"] in text
    assert "mask_ratio = " in text
    assert page.count("data:image/png") == 3
    assert not re.search(r"(src|href)=.?https?:", page)


@needs_chromium
def test_it_fits_telephones_and_desks(run, tmp_path):
    out = tmp_path / "x.html"
    assert_fits(measured(write_report(run.folder, out).read_text()))


def test_unfinished_runs_are_read_while_they_are_written(copy):
    shutil.rmtree(copy / "export")
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    bad = '{"step": 2, "loss": NaN, "samples_per_second": 3.0}'
    (copy / "metrics.jsonl").write_text("\n".join([lines[0], bad]) + '\n{"step": 3, "lo')
    with locked(copy / LOCK, "writing"):
        before = {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()}
        page, text, charts = read(copy)
    assert "not finished; at step 2" in text
    assert charts["Loss"]["x"] == [1]
    assert charts["Samples per second"]["x"] == [1, 2]
    assert page.count("data:image/png") == 3
    after = {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()}
    del after[copy / "report.html"]
    assert before == after


def test_a_run_without_anything_yet(copy):
    for name in ("export", "checkpoints"):
        shutil.rmtree(copy / name)
    (copy / "metrics.jsonl").unlink()
    _, text, charts = read(copy)
    assert not charts
    assert "at step 0" in text
    assert "has no checkpoint in one piece yet" in text


def test_damaged_weights_draw_nothing(copy):
    for file in copy.glob("checkpoints/*/model.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    page, text, _ = read(copy)
    assert "its sha256 is not the one written" in text
    assert "data:image/png" not in page


def test_bad_samples_and_profile_are_shown(copy):
    rows = [
        {"shard": "a.tar", "key": f"<{i}>", "code": "DECODE", "detail": "no png"} for i in range(12)
    ]
    rows.append({"shard": "b.tar", "key": "", "code": "TRUNCATED", "count": 3, "detail": "cut"})
    (copy / "quarantine.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"sh')
    (copy / "profile").mkdir()
    (copy / "profile" / "summary.txt").write_text("10 steps of 5.00 ms\n")
    page, text, _ = read(copy)
    assert "DECODE 12, TRUNCATED 3. The first 10 of 13:" in text
    assert "<0>" in text
    assert "<0>" not in page
    assert "10 steps of 5.00 ms" in text


def test_command(run, tmp_path):
    done = CliRunner().invoke(command, [str(run.folder), "-o", str(tmp_path / "x.html")])
    assert done.output == f"{tmp_path / 'x.html'}\n"
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match="holds no run"):
        write_report(tmp_path)


def test_mae_draws_what_is_hidden():
    encoder = zoo.create("digits-mae", seed=0).eval()
    objective = build_objective({"name": "mae", "decoder_dim": 16, "decoder_heads": 2}, encoder)
    assert isinstance(objective, MAE)
    images = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
    batch = {"image": images, "noise": torch.rand(2, objective.num_tokens)}
    with torch.no_grad():
        drawn = dict(objective.pictures(encoder, batch))
    original, seen, filled = (drawn[title][1:-1, 1:9, 0] for title in drawn)
    assert torch.equal(original, images[0, 0])
    hidden = seen != original
    assert hidden.float().mean() == 1 - objective.num_visible / objective.num_tokens
    assert torch.equal(filled[~hidden], original[~hidden])
    assert drawn["original"].shape == (10, 20, 1)


def test_thinned_curves_keep_spikes():
    y = np.sin(np.arange(50_000) / 900)
    y[31_415], y[27_182] = 9, np.nan
    xs, ys = _thin(Curve("y", range(50_000), y))
    assert len(xs) <= 800
    assert (xs[0], xs[-1], ys.max(), xs[ys.argmax()]) == (0, 49_999, 9, 31_415)
    assert np.isfinite(ys).all()


@pytest.mark.parametrize("y", [[], [2.0], [0.0, 0.0], [5.0, 5.0], [np.nan, np.inf], [1e-9, 2e-9]])
@pytest.mark.parametrize("from_zero", [False, True])
def test_charts_of_odd_values(y, from_zero):
    page = chart([Curve("a", range(len(y)), y)], x="step", y="A", from_zero=from_zero)
    assert "nan" not in page.lower()
    assert "inf" not in page.lower()


def test_logarithmic_axes():
    gpus = [1, 10, 100, 1000]
    drawn = chart(
        [Curve("a", gpus, [8, 0.8, 0.08, 0.008]), Curve("b", gpus, [1, 1, 1, 1])],
        x="GPUs",
        y="hours",
        log=True,
    )
    first, second = re.findall(r'points="([^"]*)"', drawn)
    across, down = zip(*(map(float, place.split(",")) for place in first.split()), strict=True)
    assert np.diff(across) == pytest.approx(np.diff(across)[0], abs=0.11)
    assert np.diff(down) == pytest.approx(np.diff(down)[0], abs=0.11)
    assert len({place.split(",")[1] for place in second.split()}) == 1
    labels = re.findall(r">([\d.,]+)</text>", drawn)
    assert labels == ["0.01", "0.1", "1", "1", "10", "100", "1,000"]
    assert [label for _, label in _powers(0, 0.9, 4)] == ["1", "2", "5"]
    assert [label for _, label in _powers(-0.5, 1.5, 4)] == ["1", "3", "10", "30"]


def test_ticks_and_numbers():
    assert _ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert [_label(v) for v in (0, 0.05, 2.5e-4, 1200, 20_000, 1.5e6)] == [
        *("0", "0.05", "2.5e-4", "1,200", "20k", "1.5M")
    ]
    assert [_value(v) for v in (30_234.5, 1.57412e-7, 0.5, 999.96)] == [
        *("30,230", "1.574e-07", "0.5", "1,000")
    ]
