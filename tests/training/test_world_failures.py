"""One run on several processes: what the others do when one ends, hangs, dies or fails."""

import math
import os
import signal
import time
from dataclasses import replace
from multiprocessing import connection

import pytest
import torch
import torch.distributed as dist
from torch import nn
from training.ranks import Ranks, kept_store, wait_for
from training.world_runs import Enough, exported, train, train_until, written
from zoo.objectives.mae import MAE

from zoo.training.alive import Alive
from zoo.training.metrics import read_metrics
from zoo.training.world import joined


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return written(tmp_path_factory.mktemp("world") / "shards")


def test_a_signal_to_one_process_stops_all_of_them(shards, tmp_path):
    out = tmp_path / "run"
    ranks = Ranks(2, train, shards, out, {"train.steps": 5000})
    wait_for(lambda: len(read_metrics(out)) > 3)
    ranks.kill(1, signal.SIGTERM)
    results = ranks.results()
    assert all(result.startswith("Preempted") for result in results.values()), results
    steps = {int(result.split("at step ")[1].split(",")[0]) for result in results.values()}
    assert len(steps) == 1
    assert (out / "checkpoints" / f"step-{steps.pop()}" / "COMMITTED").exists()


@pytest.mark.parametrize(("size", "victim"), [(2, 0), (3, 2), (4, 1)])
def test_a_dead_process_is_named_and_the_restarted_run_is_the_same(shards, tmp_path, size, victim):
    out, options = (
        tmp_path / "run",
        {"train.steps": 24, "encoder.drop_path": 0.3, "train.batch_size": 12},
    )
    assert all(Ranks(size, train, shards, tmp_path / "whole", options).results().values())
    options["train.save_every"] = 4
    with kept_store() as port:
        ranks = Ranks(size, train, shards, out, options, port=port)
        wait_for(lambda: len(read_metrics(out)) > 5)
        began = time.monotonic()
        ranks.kill(victim)
        results = ranks.results(timeout=60)
        assert time.monotonic() - began < 60
        assert set(results) == set(range(size)) - {victim}
        for result in results.values():
            assert f"another process of the run died or hangs (rank {victim})" in result, results
        again = Ranks(size, train, shards, out, options, port=port)
        assert again.results() == dict.fromkeys(range(size), True)
    assert torch.equal(exported(out), exported(tmp_path / "whole"))


def test_a_hanging_process_is_named(shards, tmp_path):
    out = tmp_path / "run"
    ranks = Ranks(2, train, shards, out, {"train.steps": 5000, "train.timeout": 2})
    wait_for(lambda: len(read_metrics(out)) > 3)
    ranks.kill(1, signal.SIGSTOP)
    [pipe] = connection.wait(ranks.pipes, 60)
    assert pipe is ranks.pipes[0]
    ranks.kill(1)
    assert "died or hangs (rank 1)" in ranks.results()[0]


@pytest.mark.parametrize("parallel", ["ddp", "hsdp"])
def test_a_process_that_dies_on_its_way_to_a_group_is_named(shards, tmp_path, parallel):
    """torch alone would wait for it for half an hour."""
    options = {"train.timeout": 3, "train.parallel": parallel, "train.save_in_background": True}
    ranks = Ranks(4, train_ungrouped, shards, tmp_path / "run", options, 3, nodes=2)
    results = ranks.results(timeout=30)
    assert set(results) == {0, 1, 2}
    assert all("died or hangs (rank 3)" in result for result in results.values()), results


def train_ungrouped(shards, out, options, victim):
    """Training in which one process dies before any group but the first is made."""
    new_group = dist.new_group

    def die(*args, **kwargs):
        if dist.get_rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return new_group(*args, **kwargs)

    dist.new_group = dist.distributed_c10d.new_group = die
    return train(shards, out, options)


def test_a_group_that_is_never_made_is_given_up():
    """As gloo waits for a process that died while they connected, whatever timeout it has."""
    results = Ranks(2, connect_for_ever).results(timeout=60)
    assert set(results) == {0, 1}
    for result in results.values():
        assert "did not meet within 5 s (timed out while the processes connected)" in result


def connect_for_ever():
    dist.init_process_group = lambda *_, **__: time.sleep(600)
    with joined("cpu", timeout=5):
        pass


def test_whatever_used_a_group_may_be_freed_after_it():
    """DDP, in the frames of an exception; gloo's thread may be freeing a tensor at that time."""
    for _ in range(10):
        assert Ranks(2, keep_ddp_to_the_end).results(timeout=60) == {0: "Enough: ", 1: "Enough: "}


def keep_ddp_to_the_end():
    Alive.__exit__ = lambda *_: None  # which gives other threads time, mostly enough
    with joined("cpu", timeout=20) as world:
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        model(torch.ones(2, 4)).sum().backward()
        for number in range(5):
            world.total([number])
            world.everyones(number)
        raise Enough


def test_a_process_that_dies_while_all_read_a_checkpoint_is_named(shards, tmp_path):
    """Nobody is told that the checkpoint is at fault."""
    out, options = tmp_path / "run", {"train.save_every": 4, "train.parallel": "fsdp"}
    first = Ranks(2, train_until, shards, out, options, 4)
    assert all("Enough" in result for result in first.results().values())
    [said] = Ranks(2, train_unread, shards, out, options, 1).results(timeout=30).values()
    assert "died or hangs (rank 1)" in said
    assert Ranks(2, train, shards, out, options).results() == {0: True, 1: True}


def train_unread(shards, out, options, victim):
    """Training in which one process dies when it should read its parts."""
    from zoo.training import checkpoint

    load_parts = checkpoint.load_parts

    def die(*args):
        if dist.get_rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        load_parts(*args)

    checkpoint.load_parts = die
    return train(shards, out, options)


def test_the_error_of_one_process_reaches_the_others(shards, tmp_path):
    results = Ranks(3, train_badly, shards, tmp_path / "run", 1).results()
    assert results.pop(1) == "ValueError: no such thing"
    assert set(results) == {0, 2}
    assert all("(rank 1: ValueError: no such thing)" in result for result in results.values())


def train_badly(shards, out, rank):
    """Training in which one process meets an error of its own."""
    real = MAE.forward

    def forward(self, *args):
        if int(os.environ["RANK"]) == rank and len(read_metrics(out)) > 2:
            raise ValueError("no such thing")
        return real(self, *args)

    MAE.forward = forward
    return train(shards, out, {"train.steps": 5000})


def test_all_get_what_each_has():
    for result in Ranks(3, everyones).results().values():
        assert result == [0, None, None]


def everyones():
    with joined("cpu", timeout=20) as world:
        return world.everyones(None if world.rank else 0)


def test_who_does_not_come_is_named():
    results = Ranks(3, meet).results()
    assert "did not meet within 1 s (missing: rank 2)" in results[0]


def meet():
    if os.environ["RANK"] == "2":
        return
    with joined("cpu", timeout=1):
        pass


@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_loss_that_is_no_number_in_one_process_is_so_in_all(shards, tmp_path, policy):
    out = tmp_path / "run"
    results = Ranks(2, train_poisoned, shards, out, {"train.on_nonfinite": policy}).results()
    if policy == "stop":
        assert all(r.startswith("NonFiniteError") for r in results.values()), results
        return
    assert results == {0: True, 1: True}
    assert read_metrics(out)[-1]["skipped_steps"] == 1
    assert exported(out).isfinite().all()


def train_poisoned(shards, out, options):
    """One process's loss is infinite once."""
    real, calls = MAE.forward, []

    def forward(self, *args):
        calls.append(0)
        bad = os.environ["RANK"] == "1" and len(calls) == 5
        losses = real(self, *args)
        return replace(losses, total=losses.total * math.inf) if bad else losses

    MAE.forward = forward
    return train(shards, out, options)


def test_one_bad_sample_stops_every_process(shards, tmp_path):
    ranks = Ranks(2, train, shards, tmp_path / "run", {"loader.require": ["json"]})
    results = ranks.results()
    assert all("Error" in str(result) for result in results.values()), results
