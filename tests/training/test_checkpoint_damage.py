"""Checkpoints: verified; damage is noticed, named and set aside, and nothing in them is run."""

import json
import random
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training.checkpoints import names, replace_file, rewrite, three_saved

from zoo.errors import IntegrityError, UsageError
from zoo.training.checkpoint import Checkpoints
from zoo.training.state import whole
from zoo.training.stored import read_only

FIXTURE = Path(__file__).parent.parent / "fixtures" / "checkpoints-1"


@pytest.fixture
def saved(tmp_path):
    return three_saved(tmp_path)


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
            rewrite(folder / "step-4", step=4)
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
            replace_file(path, name, content)
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
    rewrite(saved / "step-30", format=2)
    with pytest.raises(UsageError, match=r"step-30/state\.json: format 2, this zoo reads 1"):
        Checkpoints(saved, keep=2).newest()
    assert names(saved) == ["step-20", "step-30"]


def test_a_table_of_contents_runs_no_code(tmp_path):
    """It is a pickle, and a run may be somebody else's."""
    path = shutil.copytree(FIXTURE / "step-4", tmp_path / "step-4")
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "canary").encode() + b"'\ntR."
    replace_file(path, "shards/.metadata", evil)
    with pytest.raises(IntegrityError, match=r"\.metadata: no table of tensors \(os\.system"):
        whole(read_only(tmp_path), "model")
    assert not (tmp_path / "canary").exists()
