import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch

from zoo.errors import IntegrityError, StorageError
from zoo.training.checkpoint import Checkpoint, Checkpoints


def checkpoint(step):
    tensors = {"model": {"w": torch.full((50, 40), float(step)), "b": torch.zeros(())}}
    return Checkpoint(step, {"data": "x"}, tensors)


@pytest.fixture
def saved(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30):
        store.save(checkpoint(step))
    return tmp_path


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


@pytest.mark.parametrize("trial", range(40))
def test_any_damage_is_noticed_and_the_previous_one_used(saved, trial, caplog):
    """A flipped bit, zeroed bytes, a cut, a missing file: in any file of the newest."""
    rng = random.Random(trial)
    path = rng.choice(sorted(p for p in (saved / "step-30").iterdir() if p.stat().st_size))
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    match trial % 4:
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place : place + 64] = bytes(len(data[place : place + 64]))
            data[0] ^= 255  # zeroing zeros would be no damage
        case 2:
            del data[place:]
    path.write_bytes(data)
    if trial % 4 == 3:
        path.unlink()
    newest = Checkpoints(saved, keep=2).newest()
    assert newest.step == 20
    assert "set aside as .bad-step-30" in caplog.text
    assert (saved / ".bad-step-30").exists()


def test_without_its_marker_it_does_not_count(saved):
    (saved / "step-30" / "COMMITTED").unlink()
    assert Checkpoints(saved, keep=2).newest().step == 20


def test_all_damaged_is_an_error(saved):
    for path in saved.glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(IntegrityError, match="none of 2 checkpoints is whole"):
        Checkpoints(saved, keep=2).newest()


def test_a_full_disk_keeps_the_old_ones(saved, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.training.checkpoint.save_tensors", full)
    store = Checkpoints(saved, keep=2)
    with pytest.raises(StorageError, match="the disk is full"):
        store.save(checkpoint(40))
    assert sorted(path.name for path in saved.iterdir()) == ["step-20", "step-30"]
    assert store.newest().step == 30


WRITER = """
import sys, torch
from pathlib import Path
from zoo.training.checkpoint import Checkpoint, Checkpoints
store = Checkpoints(Path(sys.argv[1]), keep=2)
print("ready", flush=True)
for step in range(1, 10_000):
    w = torch.full((400, 400), float(step))
    store.save(Checkpoint(step, {"data": str(step)}, {"model": {"w": w}, "optim": {"w": w}}))
    print(step, flush=True)
"""


def test_killed_at_any_moment(tmp_path):
    """kill -9 in the middle of writing: whatever loads is whole, and no newer than was reported."""
    rng = random.Random(0)
    for trial in range(6):
        folder = tmp_path / str(trial)
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.05 + rng.random() * 0.3)
        child.send_signal(signal.SIGKILL)
        reported = child.communicate()[0].split()
        last = int(reported[-1]) if reported else 0
        newest = Checkpoints(folder, keep=2).newest()
        assert (newest.step if newest else 0) >= last
        if newest:
            for tensors in newest.tensors.values():
                assert (tensors["w"] == newest.step).all()
            assert newest.state["data"] == str(newest.step)
        assert not list(folder.glob(".tmp-*")), "leftovers are swept when the next writer begins"
        assert not list(folder.glob(".bad-*"))
        shutil.rmtree(folder)


def test_manifest_lists_every_file(saved):
    manifest = json.loads((saved / "step-30" / "manifest.json").read_text())
    files = set(os.listdir(saved / "step-30"))  # noqa: PTH208
    assert files == {*manifest, "manifest.json", "COMMITTED"}


def test_the_background_writer_keeps_what_was_there_at_the_call(tmp_path, monkeypatch):
    """The building blocks mix old and new values when tensors change right after the call."""
    from zoo.training import checkpoint as module

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
    from zoo.training import checkpoint as module

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
