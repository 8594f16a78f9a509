"""Miniatures of claims: their statistics, what is kept, and that the scripts run, in seconds."""

import json
from pathlib import Path

import pytest
import torch
import zoo.benchmarks.claims.masked as masked
from click.testing import CliRunner
from zoo.benchmarks.claims import claim as claims
from zoo.benchmarks.claims import command as runner
from zoo.benchmarks.claims.claim import NAMES, Claim, Comparison, Trials, find
from zoo.benchmarks.claims.packing import padded
from zoo.benchmarks.claims.paired import gain, interval, overall
from zoo.benchmarks.claims.results import keep, read_all, render, summarise
from zoo.benchmarks.speed.code import pair, prepare
from zoo.benchmarks.speed.timing import RESULTS
from zoo.modalities.code.codec import CodeCodec

import zoo
from zoo.errors import UnknownNameError, UsageError


def test_interval_of_paired_differences():
    # t quantile for two degrees of freedom: 4.303
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    assert interval([1.0]) != interval([1.0])  # NaN


@pytest.mark.parametrize(
    ("ours", "least", "verdict"),
    [
        ([2.0, 2.1, 2.2], 0.0, "reproduced"),
        ([0.0, 0.1, 0.2], 0.0, "not reproduced"),
        ([0.5, 1.1, 1.5], 0.0, "inconclusive"),
        ([0.95, 1.0, 1.05], -0.2, "reproduced"),  # no worse
        ([1.1, 1.11, 1.12], 0.5, "not reproduced"),  # better, but by less than was claimed
    ],
)
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_verdicts(ours, least, verdict, better):
    sign = 1 if better == "higher" else -1
    values = {"a": [sign * x for x in ours], "b": [sign * 1.0] * 3}
    found = gain(Comparison(ours="a", base="b", better=better, least=least), values)
    assert found.mean == pytest.approx(sum(ours) / 3 - 1)
    assert found.verdict == verdict
    # resampling three seeds says too little about what others would have shown
    assert found.interval_95[0] < found.bootstrap_95[0] <= found.mean <= found.bootstrap_95[1]


def test_a_claim_stands_or_falls_with_all_its_comparisons():
    assert overall(["reproduced", "reproduced"]) == "reproduced"
    assert overall(["reproduced", "inconclusive"]) == "inconclusive"
    assert overall(["inconclusive", "not reproduced"]) == "not reproduced"


def made_up(values, **changes):
    facts = {"paper": "2111.06377", "says": "A beats B.", "modality": "vision", "data": "none"}
    one = Comparison(ours="a", base="b")
    facts |= {"measure": "accuracy", "comparisons": (one,), "budget": 1, "seeds": 3, **changes}
    return Claim(name="voco", trials=lambda seeds, folder: Trials(values, {"steps": 2}), **facts)


@pytest.fixture
def one_claim(monkeypatch):
    values = {"a": [0.9, 0.91, 0.93], "b": [0.5, 0.52, 0.51]}
    monkeypatch.setattr(runner, "NAMES", ("voco",))
    monkeypatch.setattr(runner, "find", lambda name: made_up(values))


@pytest.mark.usefixtures("one_claim")
def test_the_command_keeps_json_and_a_picture(tmp_path):
    words = ["--out", str(tmp_path)]
    done = CliRunner().invoke(runner.command, words, catch_exceptions=False)
    assert "reproduced" in done.output
    [found] = read_all(tmp_path)
    assert found["verdict"] == "reproduced"
    assert found["comparisons"][0]["gain"] == pytest.approx(0.40333, abs=1e-5)
    assert found["values"]["a"] == [0.9, 0.91, 0.93]
    assert found["steps"] == 2
    svg = (tmp_path / runner.PICTURE).read_text()
    assert "voco: a against b" in svg
    assert "var(" not in svg
    again = CliRunner().invoke(runner.command, [*words, "--show"], catch_exceptions=False)
    assert "+0.4033" in again.output


def test_a_claim_that_cannot_be_tried_does_not_stop_the_others(tmp_path, monkeypatch):
    values = {"a": [0.9, 0.91, 0.93], "b": [0.5, 0.52, 0.51]}

    def found(name):
        if name == "packing":
            raise UsageError("a package is missing")
        return made_up(values)

    monkeypatch.setattr(runner, "NAMES", ("packing", "voco"))
    monkeypatch.setattr(runner, "find", found)
    done = CliRunner().invoke(runner.command, ["--out", str(tmp_path)])
    assert str(done.exception) == "packing was not tried: a package is missing"
    assert [result["claim"] for result in read_all(tmp_path)] == ["voco"]


@pytest.mark.usefixtures("one_claim")
def test_few_seeds_are_a_trial(tmp_path):
    CliRunner().invoke(runner.command, ["--out", str(tmp_path), "--seeds", "1"])
    assert not [*tmp_path.iterdir()]


def test_an_unknown_claim_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean voco"):
        find("vocoo")


def test_every_claim_is_registered():
    folder = Path(claims.__file__).parent
    files = {p.stem for p in folder.glob("*.py") if "\nCLAIM = Claim(" in p.read_text()}
    assert files == set(NAMES)
    for name in NAMES:
        found = find(name)
        assert found.name == name
        assert found.budget <= 360  # three minutes of two cores


def test_kept_results_say_what_their_claims_say():
    """A changed claim or comparison wants a new run."""
    for result in read_all(RESULTS):
        claim = find(result["claim"])
        for what in ("says", "paper", "data", "measure"):
            assert result[what] == getattr(claim, what)
        fresh = summarise(claim, Trials(result["values"]), seconds=0)
        for old, new in zip(result["comparisons"], fresh["comparisons"], strict=True):
            assert old["gain"] == pytest.approx(new["gain"], abs=3e-5)
            assert (old["ours"], old["verdict"]) == (new["ours"], new["verdict"])
        assert result["verdict"] == fresh["verdict"]


def test_render_and_keep_round_trip(tmp_path):
    claim = made_up({"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]})
    result = summarise(claim, Trials({"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 1.0]}), seconds=1.26)
    keep(result, tmp_path)
    assert json.loads((tmp_path / "claim_voco.json").read_text())["cpu_seconds"] == 1.3
    assert "inconclusive" in render([result])


def test_padded_batches_are_those_of_the_packed_ones():
    torch.manual_seed(0)
    encoder, objective = pair()
    texts = [torch.randint(4, 8192, (size,)) for size in (5, 30, 12)]
    batch = prepare(texts, objective, encoder)
    with torch.no_grad():
        losses = [objective(encoder, form).total for form in (batch.packed, padded(batch))]
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["masking_rate", "biphasic"])
def test_claims_about_texts_run(name, tmp_path, monkeypatch):
    codec, folders = CodeCodec(), {}
    for side, count in (("train", 40), ("test", 8)):
        folders[side] = tmp_path / side
        texts = [f"def f{i}(x):\n    return x + {i}\n" for i in range(count)]
        samples = (
            (f"{i:03d}", codec.encode({"text": text, "facts": {"module": f"m{i % 3}"}}))
            for i, text in enumerate(texts)
        )
        zoo.write_shards(samples, folders[side])
    monkeypatch.setattr(masked, "write_stdlib", lambda folder: folders)
    monkeypatch.setattr(masked, "STEPS", 4)
    sizes = {"encoder.depth": 1, "encoder.dim": 16, "encoder.heads": 2, "loader.workers": 0}
    more = {"train.warmup": 1, "train.batch_size": 4, "train.loggers": []}
    pretrain = zoo.pretrain

    def small(model, data, out, options, **rest):
        return pretrain(model, data, out, options | sizes | more, **rest)

    monkeypatch.setattr(zoo, "pretrain", small)
    claim = find(name)
    trials = claim.trials(2, tmp_path / "work")
    (one,) = claim.comparisons
    assert [len(trials.values[way]) for way in (one.ours, one.base)] == [2, 2]
    assert trials.values[one.ours] != trials.values[one.base]
    assert trials.facts["modules"] == 3
