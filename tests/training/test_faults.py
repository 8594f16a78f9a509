"""Runs that are killed at random moments, again and again, end as if nothing had happened."""

import os
import random
import signal
import time

import pytest
import torch
from training.ranks import Ranks
from training.test_world import train

import zoo
from zoo.training.metrics import read_metrics

STEPS = 30
OPTIONS = {
    "encoder.drop_path": 0.3, "train.steps": STEPS, "train.save_every": 3, "train.log_every": 1,
    "train.lr": 1e-3, "train.optimizer": "adamw", "train.loggers": [],
}  # fmt: skip
KINDS = {
    "one process": (1, 20, {}),
    "one process, saving in the background": (1, 20, {"train.save_in_background": True}),
    "one process with workers": (1, 20, {"loader.workers": 2}),
}  # processes, kills, options
A_RUN = 5  # kills of one run


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    from training.test_world import shards

    return shards.__wrapped__(tmp_path_factory)


def end(out):
    weights = zoo.load(out).state_dict()
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kill_at_random_moments(shards, tmp_path, kind):
    size, limit, more = KINDS[kind]
    options = OPTIONS | more
    began = time.monotonic()
    assert all(Ranks(size, train, shards, tmp_path / "whole", options).results().values())
    whole = time.monotonic() - began
    rng, kills = random.Random(kind), 0
    for number in range(limit):
        out, here = tmp_path / f"run-{number}", 0
        while True:
            ranks = Ranks(size, train, shards, out, options)
            if kills < limit and here < A_RUN:
                time.sleep(rng.uniform(0, whole))
                victims = [p for p in ranks.processes if p.is_alive()]
                if victims:
                    os.kill(rng.choice(victims).pid, signal.SIGKILL)
                    kills, here = kills + 1, here + 1
                    results = ranks.results(timeout=60, expect=size - 1)
                    fine = [r is True or "WorkerError" in r for r in results.values()]
                    assert all(fine), results  # or it was done already
                    continue
            assert set(ranks.results().values()) == {True}
            break
        assert torch.equal(end(out), end(tmp_path / "whole"))
        assert [row["step"] for row in read_metrics(out)] == list(range(1, STEPS + 1))
        left = {path.name for path in (out / "checkpoints").iterdir()}
        assert left == {f"step-{STEPS}", f"step-{STEPS - 3}"}
        if kills == limit:
            return
    raise AssertionError("the runs ended before they could be killed")
