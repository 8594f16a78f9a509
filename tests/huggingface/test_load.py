"""`zoo.load` of what lies on a hub."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save
from zoo.hub.export import save_export
from zoo.hub.published import published_weights
from zoo.hub.weights import read_state
from zoo.registry.build import encoder_spec

import zoo
from zoo.errors import UsageError, WeightsError, ZooError

SMALL = {"dim": 24, "depth": 1, "heads": 2}
BIRDS = "DBD-research-group/Bird-MAE-Base"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(hub, tmp_path, name="org/digits"):
    """An export of a small encoder, put on the hub by hand."""
    encoder = zoo.create("digits-mae", seed=1, **SMALL)
    save_export(tmp_path / "export", encoder, encoder_spec("digits-mae", SMALL))
    return encoder.eval(), hub.add(name, contents(tmp_path / "export"))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_export_comes_back_bit_for_bit(hub, tmp_path):
    encoder, oid = published(hub, tmp_path)
    images = list(torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8))
    for source in ("hf-hub:org/digits", f"hf-hub:org/digits@{oid}", "hf-hub:org/digits@main"):
        loaded = zoo.load(source)
        assert same(loaded, encoder)
        assert (loaded.embed(images) == encoder.embed(images)).all()
    hub.requests.clear()
    assert same(zoo.load("hf-hub:org/digits"), encoder)
    assert not hub.requests


def test_a_catalogue_name_brings_its_published_weights(hub):
    encoder = zoo.create("bird-mae-base", seed=1, **SMALL)
    hub.add(BIRDS, {"model.safetensors": save(encoder.state_dict()), "README.md": b"x"})
    loaded = zoo.load("bird-mae", **SMALL)
    assert same(loaded, encoder)
    assert set(loaded.load_report.loaded) == set(encoder.state_dict())
    assert not any("README" in request for request in hub.requests)


def test_weights_in_several_files(hub, tmp_path, monkeypatch):
    encoder = zoo.create("bird-mae-base", seed=1, **SMALL)
    state = encoder.state_dict()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    table = {name: file for file, some in parts.items() for name in some}
    index = "model.safetensors.index.json"
    files = {file: save({n: state[n] for n in some}) for file, some in parts.items()}
    hub.add(BIRDS, files | {index: json.dumps({"weight_map": table}).encode()})
    entry = zoo.card("bird-mae").weights[0]
    path = published_weights(replace(entry, file=index))
    read = read_state(path)
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert read.keys() == state.keys()
    for wrong in (
        {},
        {"weight_map": {"x": "../b.safetensors"}},
        {"weight_map": table | {"x": "a.safetensors"}},
    ):
        (tmp_path / index).write_text(json.dumps(wrong))
        for file, data in files.items():
            (tmp_path / file).write_bytes(data)
        with pytest.raises(WeightsError, match=r"no index of|x are not in a\.safetensors"):
            read_state(tmp_path / index)


def test_what_cannot_be_loaded(hub):
    hub.add(
        "org/theirs", {"config.json": b'{"architectures": ["Bert"]}', "model.safetensors": b"x"}
    )
    hub.add("org/empty", {"README.md": b"hello"})
    for repo in ("org/theirs", "org/empty"):
        with pytest.raises(UsageError, match=f"^{repo}: holds no encoder that zoo exported"):
            zoo.load(f"hf-hub:{repo}")
    with pytest.raises(UsageError, match="it brings its own weights"):
        zoo.load("hf-hub:org/theirs", depth=3)
    with pytest.raises(UsageError, match=f"^{BIRDS}: no such repository"):
        zoo.load("bird-mae")


def test_a_damaged_export_is_refused(hub, tmp_path):
    published(hub, tmp_path)
    files = contents(tmp_path / "export")
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\0"
    hub.add("org/damaged", files)
    with pytest.raises(ZooError, match=r"model\.safetensors: damaged or changed"):
        zoo.load("hf-hub:org/damaged")
