"""A profile: the files, and that the shares add up to what was really done."""

import gzip
import json
import logging
import time

import pytest
import torch

from zoo.training.profile import profiled, waiting_for_data


def steps(tick, count):
    x = torch.randn(200, 200)
    for _ in range(count):
        with waiting_for_data():
            time.sleep(0.004)
            torch.randn(10)  # part of making a batch, no kernel of the step
        for _ in range(4):
            x @ x
        time.sleep(0.002)
        tick()


def test_profile_says_where_the_time_goes(tmp_path):
    with profiled(tmp_path / "profile", skip=2, steps=3) as tick:
        steps(tick, 8)
    names = {file.name for file in (tmp_path / "profile").iterdir()}
    assert names == {"trace.json.gz", "summary.json", "summary.txt"}
    with gzip.open(tmp_path / "profile" / "trace.json.gz") as file:
        assert any(event["name"] == "aten::mm" for event in json.load(file)["traceEvents"])
    summary = json.loads((tmp_path / "profile" / "summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["data_ms"] >= 4
    assert summary["host_ms"] >= 2
    parts = sum(summary[f"{part}_ms"] for part in ("data", "kernels", "host"))
    assert parts == pytest.approx(summary["step_ms"], rel=1e-6)
    first = summary["operators"][0]
    assert (first["name"], first["calls"]) == ("aten::mm", 4)
    assert all(row["name"] != "aten::randn" for row in summary["operators"])
    assert "waiting for data" in (tmp_path / "profile" / "summary.txt").read_text()


def test_a_short_run_is_profiled_as_far_as_it_goes(tmp_path, caplog):
    with profiled(tmp_path / "some", skip=1, steps=10) as tick:
        steps(tick, 3)
    assert json.loads((tmp_path / "some" / "summary.json").read_text())["steps"] == 2
    with caplog.at_level(logging.WARNING, "zoo"), profiled(tmp_path / "none", skip=5) as tick:
        steps(tick, 2)
    assert "no profile" in caplog.text
    assert not (tmp_path / "none").exists()


def test_without_a_profile_nothing_happens(tmp_path):
    with profiled(tmp_path / "profile", enabled=False) as tick:
        steps(tick, 1)
    assert not list(tmp_path.iterdir())
