"""Weights in one file or in several, and tensors of several names."""

import json

import pytest
import torch
from huggingface.test_load import SMALL, contents, same
from safetensors.torch import load_file
from zoo.hub.export import save_export
from zoo.hub.saving import save_weights
from zoo.hub.weights import read_state
from zoo.registry.build import encoder_spec

import zoo
from zoo.errors import IntegrityError

INDEX = "model.safetensors.index.json"


def test_a_large_export_is_several_files(hub, tmp_path):
    encoder = zoo.create("digits-mae", seed=1, **SMALL)
    folder, limit = tmp_path / "export", 9_000
    save_export(folder, encoder, encoder_spec("digits-mae", SMALL), limit=limit)
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert parts[0].name == f"model-00001-of-{len(parts):05d}.safetensors"
    held = [sum(value.nbytes for value in load_file(part).values()) for part in parts]
    assert max(held) <= limit or any(len(load_file(part)) == 1 for part in parts)
    index = json.loads((folder / INDEX).read_text())
    assert index["metadata"] == {"total_size": sum(held)}
    assert same(zoo.load(folder), encoder)
    hub.add("org/digits", contents(folder))
    assert same(zoo.load("hf-hub:org/digits"), encoder)
    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"?")
    with pytest.raises(IntegrityError, match=parts[1].name):
        zoo.load(folder)


@pytest.mark.parametrize("limit", [10**9, 20])
def test_tied_tensors_are_written_once(tmp_path, limit):
    shared = torch.arange(5.0)
    state = {"a": shared, "b": torch.zeros(3), "c": shared, "empty": torch.zeros(0)}
    state["none"] = state["empty"]
    save_weights(tmp_path, state, limit=limit)
    back = read_state(tmp_path / ("model.safetensors" if limit > 100 else INDEX))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    assert back["c"].data_ptr() == back["a"].data_ptr()
    written = [name for file in tmp_path.glob("*.safetensors") for name in load_file(file)]
    assert sorted(written) == ["a", "b", "empty", "none"]
