"""One run on several processes: the same numbers and samples, and what happens when one dies."""

import os
import signal
import time

import numpy as np
import pytest
import torch
from training.ranks import Ranks
from zoo.modalities.vision.codec import VisionCodec

import zoo
from zoo.training.metrics import read_metrics

STEPS, KILLED = 8, 5
OPTIONS = {
    "encoder.dim": 24, "encoder.depth": 2, "encoder.drop_path": 0, "objective.decoder_dim": 16,
    "train.steps": STEPS, "train.batch_size": 24, "train.warmup": 2, "train.log_every": 1,
    "train.optimizer": "adamw", "train.lr": 1e-3, "train.ema": 0.9, "train.timeout": 20,
    "loader.workers": 0, "train.loggers": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "shards"
    codec, rng = VisionCodec(), np.random.default_rng(0)
    items = (
        (f"{i:04d}", codec.encode({"image": rng.integers(0, 256, (8, 8), dtype=np.uint8)}))
        for i in range(120)
    )
    zoo.write_shards(items, folder, samples_per_shard=40)
    return folder


def train(shards, out, options):
    run = zoo.pretrain(
        "digits-mae", shards, out, OPTIONS | options, seed=3, device="cpu", progress=False
    )
    return run.finished


def curve(out):
    return np.array([[row["loss"], row["grad_norm"]] for row in read_metrics(out)])


def exported(out):
    weights = zoo.load(out).state_dict()
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert train(shards, out, {})
    return out


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (2, {}),
        (4, {"train.accumulate": 2}),
        (3, {"loader.lanes": 1, "train.batch_size": 24}),
        (2, {"train.parallel": "fsdp"}),
        (
            4,
            {"train.parallel": "fsdp", "train.accumulate": 3, "train.checkpoint_activations": True},
        ),
    ],
)
def test_any_number_of_processes_gives_the_same_run(shards, alone, tmp_path, size, options):
    """Within 1e-4 of losses, gradients and all weights: sums are taken in another order."""
    out = tmp_path / "run"
    assert Ranks(size, train, shards, out, options).results() == dict.fromkeys(range(size), True)
    np.testing.assert_allclose(curve(out), curve(alone), rtol=1e-4)
    assert (exported(out) - exported(alone)).norm() < 1e-4 * exported(alone).norm()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("after", [1, 3])
def test_a_run_goes_on_with_another_number_of_processes(shards, alone, tmp_path, parallel, after):
    out, half = tmp_path / "run", {"train.save_every": 4, "train.parallel": parallel}
    first = Ranks(2, train_until, shards, out, half, 4)
    assert all("Enough" in result for result in first.results().values())
    second = Ranks(after, train, shards, out, half)
    assert set(second.results().values()) == {True}
    np.testing.assert_allclose(curve(out), curve(alone), rtol=1e-4)


class Enough(Exception):  # noqa: N818 - nothing went wrong
    pass


def train_until(shards, out, options, step):
    """Ends without a word after a checkpoint, as if it were killed."""
    from zoo.training.state import RunState

    real = RunState.save

    def save(self, at, *args):
        real(self, at, *args)
        if at == step:
            raise Enough

    RunState.save = save
    return train(shards, out, options)


def test_a_signal_to_one_process_stops_all_of_them(shards, tmp_path):
    out = tmp_path / "run"
    ranks = Ranks(2, train, shards, out, {"train.steps": 5000})
    wait_for(lambda: len(read_metrics(out)) > 3)
    os.kill(ranks.processes[1].pid, signal.SIGTERM)
    results = ranks.results()
    assert all(result.startswith("Preempted") for result in results.values()), results
    steps = {int(result.split("at step ")[1].split(",")[0]) for result in results.values()}
    assert len(steps) == 1
    assert (out / "checkpoints" / f"step-{steps.pop()}" / "COMMITTED").exists()


def test_a_dead_process_ends_the_others_and_is_named(shards, tmp_path):
    out = tmp_path / "run"
    ranks = Ranks(3, train, shards, out, {"train.steps": 5000})
    wait_for(lambda: len(read_metrics(out)) > 3)
    began = time.monotonic()
    os.kill(ranks.processes[2].pid, signal.SIGKILL)
    results = ranks.results(timeout=60, expect=2)
    assert time.monotonic() - began < 60
    assert set(results) == {0, 1}
    for result in results.values():
        assert result.startswith("WorkerError")
    assert any("(rank 2)" in result for result in results.values()), results


def test_one_bad_sample_stops_every_process(shards, tmp_path):
    ranks = Ranks(2, train, shards, tmp_path / "run", {"loader.require": ["json"]})
    results = ranks.results()
    assert all("Error" in str(result) for result in results.values()), results


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
