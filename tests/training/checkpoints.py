"""A small checkpoint, and what tests do with its folder."""

import json

import torch

from zoo.files import sha256_of
from zoo.training.checkpoint import Checkpoint, Checkpoints

__all__ = ["checkpoint", "names", "replace_file", "rewrite", "three_saved"]


def checkpoint(step):
    tensors = {"model": {"w": torch.full((50, 40), float(step)), "b": torch.zeros(())}}
    return Checkpoint(step, {"data": "x"}, tensors)


def three_saved(folder):
    """Steps 10, 20 and 30, of which the last two are kept."""
    store = Checkpoints(folder, keep=2)
    for step in (10, 20, 30):
        store.save(checkpoint(step))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rewrite(path, **changes):
    """Changes state.json as somebody would who knows the digests."""
    state = json.loads((path / "state.json").read_text()) | changes
    replace_file(path, "state.json", json.dumps(state).encode())


def replace_file(path, name, content):
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest[name] = {"sha256": sha256_of(path / name), "bytes": len(content)}
    (path / "manifest.json").write_text(json.dumps(manifest))
