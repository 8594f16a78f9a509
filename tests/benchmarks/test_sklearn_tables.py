"""The tables of rows: what is measured is kept, a second call continues, every bar is judged."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from zoo.benchmarks.tables.sklearn_bars import BARS, combined_f, corrected_t
from zoo.benchmarks.tables.sklearn_sets import draws, load, mixed_view, splits
from zoo.benchmarks.tables.sklearn_tables import command

from zoo.errors import UsageError

GOLDEN = Path(__file__).parent.parent / "golden" / "tabular"


def test_scores_continue_and_are_judged(tmp_path):
    scores = tmp_path / "scores.jsonl"
    words = ["--golden", str(GOLDEN), "--set", "iris", "--splits", "1", "--steps", "2"]
    words += ["--out", str(scores), "--bar", "B5"]
    CliRunner().invoke(command, [*words, "--bar", "B6"], catch_exceptions=False)
    lines = scores.read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    assert {(row["group"], row["set"]) for row in rows} == {("columns", "iris"), ("mixed", "iris")}
    assert {(row["model"], row["steps"]) for row in rows} == {("unitabe-small", 2)}
    assert all(np.isfinite(list(row["scores"].values())).all() for row in rows)
    said = CliRunner().invoke(command, words, catch_exceptions=False).output
    assert scores.read_text() == lines
    assert "B5: " in said
    assert "of 1 sets" in said


def test_encoders_that_the_bars_are_not_about_are_refused(tmp_path):
    done = CliRunner().invoke(command, ["saint-base", "--out", str(tmp_path / "scores.jsonl")])
    assert isinstance(done.exception, UsageError)


def clean_scores(better):
    rows = []
    for i in range(10):
        row = {f"{kind} {n}": 0.8 + 0.01 * i for kind in ("random", "raw") for n in (10, 20, 50)}
        row |= {
            f"{kind} {n}": 0.8 + 0.01 * i + better
            for kind in ("pretrained", "raw + pretrained")
            for n in (10, 20, 50, "all")
        }
        row |= {"baseline a all": 0.8, "baseline b all": 0.85}
        ours = {"masked cells": 0.5 - better, "knn5": 0.5, "iterative ridge": 0.6, "mean": 1.0}
        rows.append(row | {f"rmse {k} {r}": v for k, v in ours.items() for r in (0.3, 0.5)})
    return {"clean": {name: rows for name in ("one", "two")}}


@pytest.mark.parametrize("bar", ["B1", "B2", "B3", "B4"])
@pytest.mark.parametrize(("better", "verdict"), [(0.02, "met"), (-0.02, "MISSED")])
def test_bars_know_better_from_worse(bar, better, verdict):
    assert BARS[bar](clean_scores(better))[-1].startswith(verdict)


def test_paired_tests_are_those_of_the_papers():
    d = np.array([1.0, 3.0, 2.0, 2.0, 1.0, 3.0, 2.0, 2.0, 1.0, 3.0])
    assert corrected_t(d) == pytest.approx(2.0 / np.sqrt(d.var(ddof=1) * 1.1))
    # Each pair's variance is the sum of squares about its mean: 2, 0, 2, 0, 2.
    assert combined_f(d) == pytest.approx((d**2).sum() / (2 * 6.0))


def test_splits_draws_and_views_of_sets_that_are_not_stored():
    data = load("iris", None)
    first = next(splits(data))
    assert sorted([*first.pool, *first.test]) == list(range(150))
    for labelled in draws(first, 10, 3):
        assert set(labelled.tolist()) <= set(first.pool.tolist())
        assert np.bincount(data.y[labelled].astype(int)).min() >= 3
    report = mixed_view(data).describe()
    assert [row["kind"] for row in report] == ["number", "number", "category", "number"]
    assert all(0.0 < row["missing"] < 0.2 for row in report)
