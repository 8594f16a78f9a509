"""Checker of stored splits and baselines, of the part `tabular`."""

import hashlib

import numpy as np
from zoo.benchmarks.tables.sklearn_tables import Dataset, load, probe, splits, standardised
from zoo.modalities.tabular.read import read_table


def cv(fixture):
    """The splits are read as they were meant: linear baselines come out as stored."""
    stored = fixture.sidecar
    data = load(stored["dataset"], None)
    data = Dataset(data.name, data.x, data.y, data.names, stored)
    assert data.regression == (stored["task"] == "regression")
    for name, values in (("X_f8_C", data.x), ("y_f8", data.y)):
        found = hashlib.sha256(np.ascontiguousarray(values, "<f8").tobytes()).hexdigest()
        assert found == stored[f"sha256_{name}"]
    halves = [*splits(data)]
    assert len(halves) == 2 * len(stored["test_half"])
    for entry in stored["low_label"]["entries"]:
        train, _ = halves[2 * entry["repeat"] + entry["half"]]
        assert set(entry["labelled_rows"]) <= set(train.tolist())
    baselines = stored["baselines"]["full_data"]
    name, metric = ("ridge", "r2") if data.regression else ("logreg", "acc")
    scaled = [standardised(data.x, train, floor=0.0) for train, _ in halves[:4]]
    found = [probe(data, z, *half, alpha=1.0) for z, half in zip(scaled, halves, strict=False)]
    np.testing.assert_allclose(found, baselines[name][metric]["values"][:4], atol=1e-5)
    mixed(fixture, stored["mixed_view"])


def mixed(fixture, facts):
    path = fixture.path.parent / facts["file"]
    if not path.exists():
        return
    assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
    report = read_table(path).describe()
    strings = [row["name"] for row in report if row["kind"] != "number"]
    assert strings == facts["categorical"]
    assert all(row["distinct"] == 5 for row in report if row["kind"] != "number")
    assert all(0.03 < row["missing"] < 0.13 for row in report)


CHECKS = {"cv": cv}
