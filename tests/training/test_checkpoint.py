"""Checkpoints: what is kept, what readers see, and the writer in the background."""

import errno
import json
import os
import shutil
import threading
import time
from dataclasses import replace

import pytest
import torch
from training.checkpoints import checkpoint, names, three_saved

from zoo.errors import IntegrityError, StorageError, UsageError
from zoo.training.checkpoint import Checkpoint, Checkpoints
from zoo.training.stored import read_only


@pytest.fixture
def saved(tmp_path):
    return three_saved(tmp_path)


def test_round_trip_and_retention(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["step-20", "step-30"]
    newest = Checkpoints(saved, keep=2).newest()
    assert newest.step == 30
    assert newest.state == {"data": "x"}
    assert torch.equal(newest.tensors["model"]["w"], torch.full((50, 40), 30.0))


def test_numbers_not_names_decide_what_is_newest(tmp_path):
    store = Checkpoints(tmp_path, keep=9)
    for step in (9, 100, 20):
        store.save(checkpoint(step))
    assert store.newest().step == 100


def test_nothing_saved_yet(tmp_path):
    assert Checkpoints(tmp_path, keep=1).newest() is None


def test_without_its_marker_it_does_not_count(saved):
    (saved / "step-30" / "COMMITTED").unlink()
    assert Checkpoints(saved, keep=2).newest().step == 20


def test_all_damaged_is_an_error(saved):
    for path in saved.glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    for _ in range(2):  # the second time the run must not pass for a new one
        with pytest.raises(IntegrityError, match="none of 2 checkpoints is whole"):
            Checkpoints(saved, keep=2).newest()


def test_manifest_lists_every_file(saved):
    manifest = json.loads((saved / "step-30" / "manifest.json").read_text())
    files = set(os.listdir(saved / "step-30"))  # noqa: PTH208
    assert files == {*manifest, "manifest.json", "COMMITTED"}


def test_the_background_writer_keeps_what_was_there_at_the_call(tmp_path, monkeypatch):
    """The building blocks mix old and new values when tensors change right after the call."""
    from zoo.training import stored as module

    real = module.save_tensors
    gate = threading.Event()

    def slow(path, tensors):
        gate.wait(10)
        real(path, tensors)

    monkeypatch.setattr(module, "save_tensors", slow)
    store = Checkpoints(tmp_path, keep=2, background=True)
    weight = torch.full((1000,), 1.0)
    store.save(Checkpoint(1, {}, {"model": {"w": weight}}))
    weight.fill_(2.0)
    assert not (tmp_path / "step-1").exists()
    gate.set()
    store.wait()
    assert (store.newest().tensors["model"]["w"] == 1).all()


def test_a_failing_background_writer_is_said_and_harms_nothing(tmp_path, monkeypatch, caplog):
    from zoo.training import stored as module

    store = Checkpoints(tmp_path, keep=2, background=True)
    store.save(checkpoint(1))
    store.wait()

    def full(path, tensors):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_tensors", full)
    store.save(checkpoint(2))
    store.save(checkpoint(3))
    assert "the disk is full" in caplog.text
    with pytest.raises(StorageError, match="the disk is full"):
        store.wait()
    assert store.newest().step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_some_checkpoints_stay_for_good(tmp_path):
    store = Checkpoints(tmp_path, keep=1, keep_every=20, keep_best=True)
    for step, loss in [(10, 3.0), (20, 2.0), (30, 1.0), (40, 2.0), (50, 4.0)]:
        store.save(replace(checkpoint(step), state={"loss": loss}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("step-20", "step-30", "step-40", "step-50")
    ]


def test_readers_change_nothing_and_outlive_what_is_removed(saved, monkeypatch):
    from zoo.training import stored as module

    (saved / ".tmp-step-40").mkdir()
    before, real = names(saved), module.verify

    def removed_meanwhile(path):
        if path.name == "step-30" and (saved / "step-30").exists():
            shutil.rmtree(path)
        real(path)

    monkeypatch.setattr(module, "verify", removed_meanwhile)
    assert read_only(saved).step == 20
    monkeypatch.setattr(module, "verify", real)
    assert names(saved) == [name for name in before if name != "step-30"]
    with pytest.raises(UsageError, match="no checkpoint of step 7; there are 20"):
        read_only(saved, 7)
    (saved / "step-20" / "model.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"model\.safetensors: damaged"):
        read_only(saved)
    assert "step-20" in names(saved)


@pytest.mark.parametrize("now", [0.0, 2e9])
def test_no_clock_decides_anything(saved, monkeypatch, now):
    """Not 1970, nor a day ahead, nor files that are older or younger than they can be."""
    (saved / ".tmp-step-40").mkdir()
    for number, path in enumerate(sorted(saved.rglob("*"))):
        os.utime(path, (number % 2 * 4e9,) * 2)
    monkeypatch.setattr(time, "time", lambda: now)
    store = Checkpoints(saved, keep=2, keep_best=True)
    assert store.newest().step == 30
    store.save(checkpoint(40))
    assert names(saved) == ["step-30", "step-40"]


def test_updates_right_after_the_call_change_nothing(tmp_path):
    """50 times; the copies of one checkpoint take the place of those of the one before."""
    store = Checkpoints(tmp_path, keep=50, background=True)
    weight = torch.zeros(1000)
    for step in range(1, 51):
        weight.fill_(step)
        store.save(Checkpoint(step, {}, {"model": {"w": weight}}))
        weight.fill_(-1)
    store.wait()
    for step in range(1, 51):
        assert (read_only(tmp_path, step).tensors["model"]["w"] == step).all()
