"""Checker of stored splits and baselines, of the part `tabular`."""

import hashlib

import numpy as np
from sklearn.preprocessing import StandardScaler
from zoo.benchmarks.tables.sklearn_sets import draws, hidden_cells, load, mixed_view, splits
from zoo.benchmarks.tables.sklearn_tables import probe


def cv(fixture):
    """The splits are read as they were meant: linear baselines come out as stored."""
    stored = fixture.sidecar
    data = load(stored["dataset"], fixture.path.parent)
    assert data.regression == (stored["task"] == "regression")
    for name, values in (("X_f8_C", data.x), ("y_f8", data.y)):
        found = hashlib.sha256(np.ascontiguousarray(values, "<f8").tobytes()).hexdigest()
        assert found == stored[f"sha256_{name}"]
    halves = [*splits(data)]
    assert len(halves) == 2 * len(stored["test_half"])
    for entry in stored["low_label"]["entries"]:
        split = halves[2 * entry["repeat"] + entry["half"]]
        drawn = draws(split, entry["n"], stored["low_label"]["draws"] + 1)
        assert drawn[entry["draw"]].tolist() == entry["labelled_rows"]
        assert all(set(rows.tolist()) <= set(split.pool.tolist()) for rows in drawn)
    for mask in stored["imputation"]["masks"]:
        hidden = hidden_cells(halves[2 * mask["repeat"] + mask["half"]], mask["rate"])
        assert abs(hidden.mean() - mask["rate"]) < 0.03
    check_linear(data, halves[:4], stored["baselines"]["full_data"])
    check_mixed(data, stored["mixed_view"])


def check_linear(data, halves, baselines):
    name, metric = ("ridge", "r2") if data.regression else ("logreg", "acc")
    scaled = [StandardScaler().fit(data.x[half.pool]).transform(data.x) for half in halves]
    pairs = zip(scaled, halves, strict=True)
    found = [probe(data, z, half.pool, half.test, alpha=1.0) for z, half in pairs]
    np.testing.assert_allclose(found, baselines[name][metric]["values"][: len(halves)], atol=1e-5)


def check_mixed(data, facts):
    if not data.mixed.exists():
        return
    assert hashlib.sha256(data.mixed.read_bytes()).hexdigest() == facts["sha256"]
    report = mixed_view(data).describe()
    strings = [row["name"] for row in report if row["kind"] != "number"]
    assert strings == facts["categorical"]
    assert all(row["distinct"] == 5 for row in report if row["kind"] != "number")
    assert all(0.03 < row["missing"] < 0.13 for row in report)


CHECKS = {"cv": cv}
