"""Weights of any size as safetensors: one file, or parts and an index as the Hub's tools write."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from zoo.hub.weights import INDEX

from zoo.files import save_tensors

__all__ = ["LIMIT", "save_weights"]

LIMIT = 5_000_000_000  # bytes of a file; what broke off begins anew with the file
_STEM = "model"


def save_weights(folder: Path, state: Mapping[str, Tensor], *, limit: int = LIMIT) -> None:
    """Writes model.safetensors, or model-00001-of-0000N.safetensors and an index.

    Of names that share one tensor the first is written; the metadata say which others mean it.

    Args:
        folder: exists.
        state: tensors by name, in the order in which they are divided.
        limit: bytes of tensors in a file; only a tensor that is larger itself exceeds it.
    """
    kept, aliases = _untied(state)
    parts = _divided(kept, limit)
    if len(parts) == 1:
        save_tensors(folder / f"{_STEM}.safetensors", parts[0], notes=aliases)
        return
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"{_STEM}-{number:05d}-of-{len(parts):05d}.safetensors"
        save_tensors(folder / name, part)
        places |= dict.fromkeys(part, name)
    total = sum(value.nbytes for value in kept.values())
    index = {"metadata": {"total_size": total, **aliases}, "weight_map": places}
    (folder / f"{_STEM}{INDEX}").write_text(json.dumps(index, indent=1) + "\n")


def _untied(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor once, and the other names of those that have several."""
    first: dict[tuple[object, ...], str] = {}
    kept, aliases = {}, {}
    for name, value in state.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        owner = first.setdefault(place, name) if value.numel() else name
        if owner == name:
            kept[name] = value
        else:
            aliases[name] = owner
    return kept, aliases


def _divided(state: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    room = limit
    for name, value in state.items():
        if value.nbytes > room and parts[-1]:
            parts.append({})
            room = limit
        parts[-1][name] = value
        room -= value.nbytes
    return parts
