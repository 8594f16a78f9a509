"""`zoo convert`: every tensor of a foreign file is somewhere, and comes back."""

import pickle

import pytest
import torch
from safetensors.torch import load_file
from zoo.hub.convert import BACK
from zoo.hub.rewrite import rewrite
from zoo.objectives.mae import MAE
from zoo.registry.build import build_objective

import zoo
from zoo.errors import UnknownNameError, UsageError, WeightsError

SMALL = {"dim": 24, "depth": 2, "heads": 2}
HEADS = {"name": "mae", "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture
def parts():
    encoder = zoo.create("digits-mae", seed=1, **SMALL)
    objective = build_objective(HEADS, encoder)
    assert isinstance(objective, MAE)
    return encoder.state_dict(), objective.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_there_and_back(parts, tmp_path):
    encoder, heads = parts
    foreign = BACK["transformers-vit-mae"](encoder, heads)
    torch.save(foreign, tmp_path / "theirs.pth")
    done = rewrite(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    assert same(load_file(tmp_path / "ours.safetensors"), {**encoder, **heads})
    assert len(done.encoder) + len(done.objective) == len(encoder) + len(heads)
    loaded = zoo.load("digits-mae", weights=tmp_path / "ours.safetensors", **SMALL)
    assert same(loaded.state_dict(), encoder)
    to = "transformers-vit-mae"
    rewrite(tmp_path / "ours.safetensors", tmp_path / "back.safetensors", to=to)
    assert same(load_file(tmp_path / "back.safetensors"), foreign)


def test_what_is_left_out_is_named(parts, tmp_path):
    torch.save(parts[0] | {"head.weight": torch.ones(3)}, tmp_path / "tuned.pth")
    done = rewrite(tmp_path / "tuned.pth", tmp_path / "x.safetensors")
    assert done.extra == {"head.weight": "a classifier, no part of the encoder"}
    assert same(load_file(tmp_path / "x.safetensors"), parts[0])


def test_refusals_write_nothing(parts, tmp_path):
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "other.pth")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(print))
    (tmp_path / "there.safetensors").write_bytes(b"x")
    out = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match=r"no layout that zoo recognises .*conv1\.weight"):
        rewrite(tmp_path / "other.pth", out)
    with pytest.raises(WeightsError, match="is no tensor of the layout transformers"):
        rewrite(tmp_path / "other.pth", out, layout="transformers-vit-mae")
    with pytest.raises(WeightsError, match="not a plain file of tensors"):
        rewrite(tmp_path / "evil.pth", out)
    with pytest.raises(UsageError, match="must be a new file"):
        rewrite(tmp_path / "other.pth", tmp_path / "there.safetensors")
    with pytest.raises(UnknownNameError, match="unknown layout to write 'timm'"):
        rewrite(tmp_path / "other.pth", out, to="timm")
    assert not out.exists()
    assert not list(tmp_path.glob(".tmp-*"))
