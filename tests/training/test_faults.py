"""Runs that are killed at random moments, again and again, end as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from training.ranks import Ranks
from training.test_world import train

import zoo
from zoo.training.metrics import read_metrics

STEPS = 40
OPTIONS = {
    "encoder.drop_path": 0.3, "train.steps": STEPS, "train.save_every": 3, "train.log_every": 1,
    "train.lr": 1e-3, "train.optimizer": "adamw",
}  # fmt: skip
KINDS = {
    "one process": (1, {}),
    "one process, saving in the background": (1, {"train.save_in_background": True}),
    "one process with workers": (1, {"loader.workers": 2}),
    "two processes": (2, {}),
    "two processes, divided": (2, {"train.parallel": "fsdp"}),
}
KILLS = 20


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
    size, more = KINDS[kind]
    options = OPTIONS | more
    began = time.monotonic()
    assert all(Ranks(size, train, shards, tmp_path / "whole", options).results().values())
    whole = time.monotonic() - began
    rng, kills, number = random.Random(kind), 0, 0
    while kills < KILLS:
        out = tmp_path / f"run-{number}"
        number += 1
        while True:
            ranks = Ranks(size, train, shards, out, options)
            time.sleep(rng.uniform(0, whole))
            victims = [p for p in ranks.processes if p.is_alive()]
            if not victims:
                assert set(ranks.results().values()) == {True}
                break
            os.kill(rng.choice(victims).pid, signal.SIGKILL)
            kills += 1
            results = ranks.results(timeout=60, expect=size - 1)
            assert all("WorkerError" in str(result) for result in results.values()), results
        assert torch.equal(end(out), end(tmp_path / "whole"))
        steps = [row["step"] for row in read_metrics(out)]
        assert steps == list(range(1, STEPS + 1))
        left = {path.name for path in (out / "checkpoints").iterdir()}
        assert left == {f"step-{STEPS}", f"step-{STEPS - 1}"}


@pytest.mark.slow
def test_torchrun_restarts_what_died(shards, tmp_path):
    out = tmp_path / "run"
    words = [f"{key}={value}" for key, value in OPTIONS.items()]
    more = ["train.steps=400", "encoder.dim=24", "encoder.depth=1", "loader.workers=0"]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *("--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
        *("-m", "zoo", "pretrain", "digits-mae", "--data", str(shards), "--out", str(out)),
        *("--device=cpu", "--quiet", *words, *more),
    ]
    launcher = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(read_metrics(out)) < 20:
        assert time.monotonic() < deadline
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.1)
    path = f"/proc/{launcher.pid}/task/{launcher.pid}/children"
    with open(path) as file:  # noqa: PTH123
        children = [int(word) for word in file.read().split()]
    os.kill(children[-1], signal.SIGKILL)
    said, errors = launcher.communicate(timeout=180)
    assert launcher.returncode == 0, errors
    assert said.count("done:") == 1
    assert [row["step"] for row in read_metrics(out)] == list(range(1, 401))
