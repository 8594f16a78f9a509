"""Checkpoints: complete or absent, verified, and none harmed by what happens to another."""

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import IntegrityError, StorageError, UsageError
from zoo.files import sha256_of
from zoo.training.checkpoint import Checkpoint, Checkpoints
from zoo.training.state import whole
from zoo.training.stored import read_only

FIXTURE = Path(__file__).parent.parent / "fixtures" / "checkpoints-1"


def checkpoint(step):
    tensors = {"model": {"w": torch.full((50, 40), float(step)), "b": torch.zeros(())}}
    return Checkpoint(step, {"data": "x"}, tensors)


@pytest.fixture
def saved(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30):
        store.save(checkpoint(step))
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_a_full_disk_keeps_the_old_ones(saved, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.training.stored.save_tensors", full)
    store = Checkpoints(saved, keep=2)
    with pytest.raises(StorageError, match="the disk is full"):
        store.save(checkpoint(40))
    assert sorted(path.name for path in saved.iterdir()) == ["step-20", "step-30"]
    assert store.newest().step == 30


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


DAMAGES = ("flip", "zero", "cut", "swap", "swap with another step", "rename", "remove", "add")


def damage(kind, newest, rng):
    """Does it to a checkpoint; returns what names what was done, and the folder's name after."""
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    full = [path for path in files if path.stat().st_size]
    path = rng.choice(files if kind == "remove" else full)
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) or 1)
    match kind:
        case "flip":
            data[place] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
        case "zero":
            data[place : place + 64] = bytes(len(data[place : place + 64]))
            if data == path.read_bytes():  # zeros were there
                data[place] = 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:place])
        case "swap":
            other = rng.choice([f for f in full if f != path])
            path.write_bytes(other.read_bytes())
            other.write_bytes(data)
        case "swap with another step":
            path = newest / rng.choice(["rng.safetensors", "state.json"])
            path.write_bytes((newest.with_name("step-3") / path.name).read_bytes() + b" ")
        case "rename":
            path, newest = newest / "state.json", newest.rename(newest.with_name("step-9"))
        case "remove":
            path.unlink()
        case "add":
            path = path.with_name(path.name + "~")
            path.touch()
    return path.name, newest.name


def test_every_damage_is_noticed_and_the_previous_one_used(tmp_path, caplog):
    """300 times, in every kind of file; the file is named, or the list from which it differs."""
    for trial in range(300):
        rng, folder = random.Random(trial), tmp_path / str(trial)
        shutil.copytree(FIXTURE, folder)
        if trial % 2:  # not divided
            (folder / "step-4").rename(folder / "step-2")
            shutil.copytree(folder / "step-3", folder / "step-4")
            _rewrite(folder / "step-4", step=4)
            shutil.rmtree(folder / "step-2")
        kind = DAMAGES[trial // 2 % len(DAMAGES)]
        name, after = damage(kind, folder / "step-4", rng)
        caplog.clear()
        newest = Checkpoints(folder, keep=2).newest()
        assert newest.step == 3, f"{trial}: {kind}"
        assert f"set aside as .bad-{after}" in caplog.text, f"{trial}: {kind}"
        assert name in caplog.text or "manifest.json" in caplog.text, f"{trial}: {kind} of {name}"
        assert names(folder) == [f".bad-{after}", "step-3"]
        shutil.rmtree(folder)


def _rewrite(path, **changes):
    """Changes state.json as somebody would who knows the digests."""
    state = json.loads((path / "state.json").read_text()) | changes
    _replace(path, "state.json", json.dumps(state).encode())


def _replace(path, name, content):
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] = {"sha256": sha256_of(path / name), "bytes": len(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["format", "step", "state", "state.json", "sha256", "bytes", "../x", ""]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150, database=None)
@given(
    name=st.sampled_from(["state.json", "manifest.json"]),
    value=VALUES | st.binary(max_size=20),
    known=st.booleans(),
)
def test_whatever_the_lists_say_is_no_surprise(name, value, known):
    """Fuzzed, with and without fitting digests: a damaged file is IntegrityError, nothing else."""
    with TemporaryDirectory() as folder:
        path = shutil.copytree(FIXTURE / "step-3", Path(folder) / "step-3")
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        if known and name == "state.json":
            _replace(path, name, content)
        else:
            (path / name).write_bytes(content)
        newer = isinstance(value, dict) and isinstance(value.get("format"), int)
        expected = (IntegrityError, UsageError) if newer else IntegrityError
        with pytest.raises(expected):
            Checkpoints(Path(folder), keep=1).newest()


def test_a_list_that_nests_too_deeply_is_damaged(saved):
    (saved / "step-30" / "manifest.json").write_text("[" * 100_000)
    assert Checkpoints(saved, keep=2).newest().step == 20


def test_the_first_format_is_read_for_ever():
    """Written by zoo 0.1: step 3 by one process, step 4 by two, each a part."""
    w = torch.arange(6.0).reshape(3, 2)
    for step in (3, 4):
        found = read_only(FIXTURE, step)
        groups = whole(found, "model", "optim", "ema")
        assert groups["model"].keys() == {"encoder.weight", "encoder.half", "encoder.count"}
        assert torch.equal(groups["model"]["encoder.weight"], w)
        assert torch.equal(groups["model"]["encoder.half"], w.bfloat16())
        assert torch.equal(groups["optim"]["encoder.weight::exp_avg"], w + 1)
        assert torch.equal(groups["ema"]["module.weight"], w + 2)
        assert groups["ema"]["n_averaged"] == 3
        assert torch.equal(found.tensors["rng"]["cpu-0"], torch.arange(8, dtype=torch.uint8))
        assert found.state["loader"] == {"position": 24}


def test_a_newer_format_is_refused_and_left_alone(saved):
    _rewrite(saved / "step-30", format=2)
    with pytest.raises(UsageError, match=r"step-30/state\.json: format 2, this zoo reads 1"):
        Checkpoints(saved, keep=2).newest()
    assert names(saved) == ["step-20", "step-30"]


def test_a_table_of_contents_runs_no_code(tmp_path):
    """It is a pickle, and a run may be somebody else's."""
    path = shutil.copytree(FIXTURE / "step-4", tmp_path / "step-4")
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "canary").encode() + b"'\ntR."
    _replace(path, "shards/.metadata", evil)
    with pytest.raises(IntegrityError, match=r"\.metadata: no table of tensors \(os\.system"):
        whole(read_only(tmp_path), "model")
    assert not (tmp_path / "canary").exists()


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
