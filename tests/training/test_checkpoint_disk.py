"""Checkpoints: complete or absent, whenever the process is killed or the disk fails."""

import errno
import io
import itertools
import os
import random
import shutil
import signal
import time
import warnings
from functools import partial

import pytest
import torch
from training.checkpoints import checkpoint, names, three_saved

from zoo.errors import StorageError
from zoo.training.checkpoint import Checkpoint, Checkpoints
from zoo.training.state import whole


@pytest.fixture
def saved(tmp_path):
    return three_saved(tmp_path)


def test_killed_at_any_moment(tmp_path):
    """kill -9 in the middle of writing: whatever loads is whole, and no older than was reported."""
    rng = random.Random(0)
    for trial in range(12):
        folder, (reports, reported) = tmp_path / str(trial), os.pipe()
        child = os.fork()
        if child == 0:
            store = Checkpoints(folder, keep=2)
            for step in itertools.count(1):
                w = torch.full((400, 400), float(step))
                tensors = {"model": {"w": w}, "optim": {"w": w}}
                store.save(Checkpoint(step, {"data": str(step)}, tensors))
                os.write(reported, f"{step} ".encode())
        os.close(reported)
        time.sleep(0.02 + rng.random() * 0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reports) as pipe:
            last = int((pipe.read().split() or ["0"])[-1])
        newest = Checkpoints(folder, keep=2).newest()
        assert (newest.step if newest else 0) >= last
        if newest:
            for tensors in newest.tensors.values():
                assert (tensors["w"] == newest.step).all()
            assert newest.state["data"] == str(newest.step)
        assert not list(folder.glob(".tmp-*")), "leftovers are swept when the next writer begins"
        assert not list(folder.glob(".bad-*"))
        shutil.rmtree(folder)


def test_a_full_disk_keeps_the_old_ones(saved, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.training.stored.save_tensors", full)
    store = Checkpoints(saved, keep=2)
    with pytest.raises(StorageError, match="the disk is full"):
        store.save(checkpoint(40))
    assert sorted(path.name for path in saved.iterdir()) == ["step-20", "step-30"]
    assert store.newest().step == 30


CALLS = [
    *((os, name) for name in ("fsync", "mkdir", "open", "rename", "replace", "rmdir", "unlink")),
    (io, "open"),
]  # what touches the disk, in whatever writes, keeps and removes


def disturbed(act, at, patch):
    """Has `act` come before call number `at` of all that touches the disk; returns their count."""
    count = itertools.count(1)

    def hook(real):
        def call(*args, **kwargs):
            if next(count) == at:
                act()
            return real(*args, **kwargs)

        return call

    for module, name in CALLS:
        patch(module, name, hook(getattr(module, name)))
    return count


def killed(work, at):
    """Runs `work` in a child that is gone before that call; False if it came to its end first."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            disturbed(lambda: os._exit(9), at, setattr)
            work()
            code = 0
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, 9)
    return ended == 9


def save(folder):
    Checkpoints(folder, keep=2).save(checkpoint(40))


def save_divided(folder):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        weights = {"model/w": torch.full((50, 40), 40.0), "model/b": torch.zeros(())}
        Checkpoints(folder, keep=2).save(Checkpoint(40, {"data": "x"}, {}, weights))


def set_aside(folder):
    Checkpoints(folder, keep=2).newest()


@pytest.mark.parametrize("work", [save, save_divided, set_aside])
def test_killed_before_any_call_that_touches_the_disk(saved, tmp_path, work):
    """Of saving with retention, and of setting aside: whatever loads is whole, nothing is left."""
    work(shutil.copytree(saved, tmp_path / "whole"))  # what is imported then is not in the children
    if work is set_aside:
        (saved / "step-30" / "COMMITTED").unlink()
    steps = set()
    for at in itertools.count(1):
        folder = shutil.copytree(saved, tmp_path / f"killed-{at}")
        over = not killed(lambda folder=folder: work(folder), at)
        newest = Checkpoints(folder, keep=2).newest()
        assert not list(folder.glob(".tmp-*"))
        weights = whole(newest, "model")["model"]
        assert (weights["w"] == newest.step).all()
        steps.add(newest.step)
        shutil.rmtree(folder)
        if over:
            break
    assert at > (3 if work is set_aside else 20)
    assert steps == ({20} if work is set_aside else {30, 40})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("work", [save, save_divided])
def test_a_disk_that_fails_at_any_call_keeps_the_old_ones(saved, tmp_path, work, number):
    def fail():
        raise OSError(number, os.strerror(number))

    refused = 0
    for at in itertools.count(1):
        folder = shutil.copytree(saved, tmp_path / f"failed-{at}")
        with pytest.MonkeyPatch.context() as patch:
            count = disturbed(fail, at, patch.setattr)
            try:
                work(folder)
            except StorageError:
                refused += 1
        over = next(count) <= at
        left = [name for name in names(folder) if name.startswith("step-")]
        assert left in (
            ["step-20", "step-30"],
            ["step-20", "step-30", "step-40"],
            ["step-30", "step-40"],
        )
        store = Checkpoints(folder, keep=2)
        assert store.newest().step == int(left[-1][5:]), "what has the name is whole"
        assert not list(folder.glob(".[tb]*"))
        shutil.rmtree(folder)
        if over:
            break
    assert refused > 10
    assert StorageError.run_exit_code == 74


def test_a_folder_that_is_gone_is_not_made_again(tmp_path):
    store = Checkpoints(tmp_path / "run", keep=2)
    store.save(checkpoint(1))
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(StorageError, match="its folder is gone"):
        store.save(checkpoint(2))
    assert not (tmp_path / "run").exists()


def test_room_is_made_by_what_would_go_anyway(saved, monkeypatch, caplog):
    free = iter([8e3, 9e3])  # one takes 8 kB
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, next(free)))
    Checkpoints(saved, keep=2).save(checkpoint(40))
    assert names(saved) == ["step-30", "step-40"]
    assert caplog.messages == [f"{saved}/step-20: the disk is nearly full, so it goes early"]


@pytest.mark.parametrize("background", [False, True])
def test_without_room_nothing_is_written(saved, monkeypatch, background):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 8e3))
    store = Checkpoints(saved, keep=3, background=background)
    if background:
        store.save(checkpoint(40))
    failing = store.wait if background else partial(store.save, checkpoint(40))
    with pytest.raises(StorageError, match="room for 0 MB, but step 40 needs 0: free some space"):
        failing()
    assert names(saved) == ["step-20", "step-30"]
