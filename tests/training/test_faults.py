"""Runs that are killed, stopped and restarted, again and again, end as if nothing had happened."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info
from training.ranks import Ranks, kept_store, wait_for
from training.world_runs import OPTIONS as COMMON
from training.world_runs import exported, train, written
from zoo.modalities.vision.codec import VisionCodec

from zoo.errors import DataError
from zoo.training import stored
from zoo.training.metrics import read_metrics
from zoo.training.stored import step_of

STEPS = 30
OPTIONS = {
    "encoder.depth": 1, "encoder.drop_path": 0.3, "train.steps": STEPS, "train.save_every": 5,
    "train.batch_size": 8,
}  # fmt: skip
KINDS = {
    "one process": (1, {}),
    "one process, saving in the background": (1, {"train.save_in_background": True}),
    "one process with workers": (1, {"loader.workers": 2}),
    "two processes": (2, {}),
    "two processes, divided": (2, {"train.parallel": "fsdp", "train.save_every": 10}),
}  # processes, options
KILLS, A_RUN = 20, 5  # of a kind, of one run


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return written(tmp_path_factory.mktemp("world") / "shards")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_kill_at_random_moments(shards, tmp_path, kind):
    size, more = KINDS[kind]
    options = OPTIONS | more
    began = time.monotonic()
    assert all(Ranks(size, train, shards, tmp_path / "whole", options).results().values())
    whole = time.monotonic() - began
    rng, kills = random.Random(kind), 0
    for number in range(KILLS):
        out = tmp_path / f"run-{number}"
        with kept_store() as port:
            for attempt in range(A_RUN + 1):
                ranks = Ranks(size, train, shards, out, options, port=port)
                if attempt < A_RUN and kills < KILLS:
                    ranks.wait(rng.uniform(0, whole))
                    hit = ranks.end(rng.randrange(size))
                    kills += hit
                    if not hit:  # the first run was on a busier machine
                        whole *= 0.6
                results = ranks.results()
                assert all(r is True or "WorkerError" in r for r in results.values()), results
                if results == dict.fromkeys(range(size), True):
                    break
        assert torch.equal(exported(out), exported(tmp_path / "whole"))
        assert [row["step"] for row in read_metrics(out)] == list(range(1, STEPS + 1))
        left = {path.name for path in (out / "checkpoints").iterdir()}
        assert left == {f"step-{STEPS}", f"step-{STEPS - options['train.save_every']}"}
        if kills == KILLS:
            return
    raise AssertionError("the runs ended before they could be killed")


@pytest.mark.slow
def test_signals_at_random_moments(shards, tmp_path):
    """To one process or to all, also while saving: one step, saved once, and on from there."""
    out, rng = tmp_path / "run", random.Random(0)
    options = OPTIONS | {"train.steps": 100_000, "train.save_every": 2}
    done = 0
    with kept_store() as port:
        for _ in range(20):
            ranks = Ranks(2, train, shards, out, options, port=port)
            enough = done + rng.randrange(3)
            wait_for(lambda enough=enough: len(read_metrics(out)) > enough)
            time.sleep(rng.uniform(0, 0.05))
            for rank in rng.choice([(0,), (1,), (0, 1)]):
                ranks.kill(rank, rng.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]))
            results = ranks.results()
            assert set(results) == {0, 1}
            assert all(said.startswith("Preempted") for said in results.values()), results
            [step] = {int(said.split("at step ")[1].split(",")[0]) for said in results.values()}
            assert max(map(step_of, (out / "checkpoints").glob("step-*"))) == step > done
            done = step
    assert [row["step"] for row in read_metrics(out)] == list(range(1, done + 1))


def test_a_second_interrupt_ends_a_run_at_once_and_leaves_it_whole(build, monkeypatch):
    trainer, real = build("train.save_every=4"), stored.write

    def write(checkpoint, draft):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        real(checkpoint, draft)

    monkeypatch.setattr("zoo.training.checkpoint.write", write)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(progress=False)
    monkeypatch.undo()
    assert trainer.step == 4
    again = build("train.save_every=4")
    assert again.step == 0, "the checkpoint that was being written does not count"
    again.train(progress=False)
    assert again.step == again.total


TROUBLE = {
    "killed": ("a loader worker died", {}),
    "hung": ("a loader worker gave nothing for too long", {"loader.timeout": 2}),
    "raised": ("the worker's own trouble", {"loader.on_bad": "raise"}),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_in_a_loader_worker_is_named_and_the_run_goes_on_exactly(shards, tmp_path, trouble):
    said, more = TROUBLE[trouble]
    options = OPTIONS | {"loader.workers": 2, "train.steps": 12} | more
    assert Ranks(1, train, shards, tmp_path / "whole", options).results() == {0: True}
    out = tmp_path / "run"
    [result] = Ranks(1, train_with_trouble, shards, out, options, trouble).results().values()
    assert said in result
    assert re.search(r"\.tar, sample '\d{4}'", result), result
    assert 0 < read_metrics(out)[-1]["step"] < 12
    assert Ranks(1, train, shards, out, options).results() == {0: True}
    assert torch.equal(exported(out), exported(tmp_path / "whole"))


def train_with_trouble(shards, out, options, trouble):
    """Training in which the second worker meets something bad in its fourth batch."""
    real, mine = VisionCodec.decode, []

    def decode(self, members):
        mine.append(0)
        info = get_worker_info()
        if info is not None and info.id == 1 and len(mine) > 30:
            if trouble == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if trouble == "hung":
                signal.pause()
            raise DataError("the worker's own trouble")
        return real(self, members)

    VisionCodec.decode = decode
    return train(shards, out, options)


@pytest.mark.slow
def test_torchrun_restarts_what_died_and_stops_when_told(shards, tmp_path):
    out, steps = tmp_path / "run", 300
    options = COMMON | OPTIONS | {"train.steps": steps, "train.save_every": 50, "train.timeout": 60}
    words = [f"{key}={value}" for key, value in options.items() if value != []]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"),
        *("--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
        *("-m", "zoo", "pretrain", "digits-mae", "--data", str(shards), "--out", str(out)),
        *("--device=cpu", "--quiet", "--seed=3", *words),
    ]
    with launched(command) as launcher:
        until(launcher, lambda: len(read_metrics(out)) > 60)
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        os.kill(int(random.choice(children)), signal.SIGKILL)
        until(launcher, lambda: len(read_metrics(out)) > 120)
        launcher.terminate()
        said, errors = launcher.communicate(timeout=120)
    done = len(read_metrics(out))
    assert 120 < done < steps, errors
    saved = max(map(step_of, (out / "checkpoints").glob("step-*")))
    assert saved == done, "the last step was saved"
    with launched(command) as again:
        said, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert said.count("done:") == 1
    assert [row["step"] for row in read_metrics(out)] == list(range(1, steps + 1))
    whole = tmp_path / "whole"
    assert all(Ranks(2, train, shards, whole, options).results().values())
    assert torch.equal(exported(out), exported(whole))


@contextmanager
def launched(command):
    """A launcher, which takes its processes along when it ends."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def until(process, condition):
    def holds():
        assert process.poll() is None, process.stderr.read()
        return condition()

    wait_for(holds, seconds=120)
