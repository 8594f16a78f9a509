"""Every miniature runs, hardly trained, and measures the ways that its claim compares."""

import math
from functools import partial

import pytest
from zoo.benchmarks.claims import (
    any_subset,
    bird_prototypes,
    caption_mixing,
    curriculum,
    digits,
    infinite_lr,
    medical_mae,
    nearest_mean,
    self_distillation,
    tabular_pretraining,
)
from zoo.benchmarks.claims.claim import find
from zoo.benchmarks.tables import sklearn_tables

SMALL = {
    "mae_mask_ratio": [(digits, "STEPS", 2)],
    "medical_mae": [
        (medical_mae, "STEPS", 2),
        (medical_mae, "COUNTS", {"train": 16, "labelled": 40, "test": 40}),
    ],
    "self_distillation": [
        (self_distillation, "STEPS", 2),
        (self_distillation, "FURTHER", 2),
        (self_distillation, "PIECES", 16),
        (self_distillation, "PASSES", 1),
        (nearest_mean, "EPOCHS", 1),
    ],
    "normalisation": [(digits, "STEPS", 2)],
    "nearest_mean": [(digits, "STEPS", 2), (nearest_mean, "EPOCHS", 1)],
    "bird_prototypes": [
        (bird_prototypes, "STEPS", 2),
        (bird_prototypes, "SHOTS", (1,)),
        (bird_prototypes, "DRAWS", 1),
        (bird_prototypes, "write_birds", partial(bird_prototypes.write_birds, quick=True)),
    ],
    "tabular_pretraining": [
        (tabular_pretraining, "PRETRAINING", sklearn_tables.Pretraining(steps=2)),
        (sklearn_tables, "_DRAWS", 1),
    ],
    "infinite_lr": [(infinite_lr, "STEPS", 4)],
    "curriculum": [(curriculum, "STREAM", 96)],
    "caption_mixing": [(caption_mixing, "STEPS", 2)],
    "any_subset": [
        (any_subset, "STEPS", 2),
        (any_subset, "COUNTS", {"train": 16, "labelled": 12, "test": 8}),
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all: shards that are there are left as they are."""
    return tmp_path_factory.mktemp("miniatures")


@pytest.mark.parametrize("name", SMALL)
def test_a_miniature_runs(name, folder, monkeypatch):
    for module, constant, value in SMALL[name]:
        monkeypatch.setattr(module, constant, value)
    claim = find(name)
    found = claim.trials(1, folder).values
    wanted = {way for one in claim.comparisons for way in (one.ours, one.base)}
    if name == "bird_prototypes":
        wanted = {way for way in wanted if way.endswith(" 1 a species")}
    assert wanted <= found.keys()
    assert all(len(values) == 1 and math.isfinite(values[0]) for values in found.values())
