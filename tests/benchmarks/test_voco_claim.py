"""VoCo's claim on bodies too few to show it: that the script compares what it says it does."""

import json

import pytest
import zoo.benchmarks.claims.paired as paired
import zoo.benchmarks.claims.voco as voco
from click.testing import CliRunner
from scipy.stats import ttest_rel


def test_every_seed_is_measured_against_every_control(tmp_path, monkeypatch):
    monkeypatch.setattr(voco, "BODIES", {"train": 4, "test": 2})
    monkeypatch.setattr(voco, "FEW", 2)
    monkeypatch.setattr(paired, "RESULTS", tmp_path)
    done = CliRunner().invoke(voco.command, ["--seeds", "3", "--steps", "2"])
    assert done.exit_code == 0, done.output
    assert "paired by seed" in done.output
    found = json.loads((tmp_path / "claim_voco.json").read_text())
    values = found["values"]
    ours = values.pop("VoCo")
    assert values.keys() == found["against"].keys()
    assert {"VoCo, shuffled places", "random weights"} < values.keys()
    for name, scores in values.items():
        facts = found["against"][name]
        assert facts["difference"] == pytest.approx(sum(ours) / 3 - sum(scores) / 3, abs=2e-5)
        assert facts["p"] == pytest.approx(ttest_rel(ours, scores).pvalue, rel=0.2)
        low, high = facts["interval_95"]
        assert low <= facts["difference"] <= high
