"""VoCo's claim on bodies too few to show it: that the script compares what it says it does."""

import zoo.benchmarks.claims.voco as voco


def test_every_seed_is_measured_against_every_control(tmp_path, monkeypatch):
    monkeypatch.setattr(voco, "BODIES", {"train": 4, "test": 2})
    monkeypatch.setattr(voco, "FEW", 2)
    monkeypatch.setattr(voco, "STEPS", 2)
    found = voco.CLAIM.trials(2, tmp_path)
    assert all(len(scores) == 2 for scores in found.values.values())
    wanted = {way for one in voco.CLAIM.comparisons for way in (one.ours, one.base)}
    assert {"VoCo", "VoCo, shuffled places", "random weights"} == wanted < found.values.keys()
