"""Buffers that another library computes when it builds a model, and keeps in no file."""

from collections.abc import Callable

import torch
from torch import nn

__all__ = ["fill_buffers"]


def fill_buffers(model: nn.Module, build: Callable[[], nn.Module], device: torch.device) -> None:
    """Gives buffers on meta the values that a model built anew has."""
    if not any(buffer.is_meta for buffer in model.buffers()):
        return
    for name, buffer in build().named_buffers():
        if model.get_buffer(name).is_meta:
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, buffer.to(device))
