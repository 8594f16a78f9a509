"""The models of tables: loaded for measuring, and what was published of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from zoo.modalities.contracts import Encoder
from zoo.registry.catalogue import find, is_folder

import zoo

__all__ = ["load", "published", "size_of"]


def load(
    model: str,
    weights: Path | None,
    preprocess: Mapping[str, object] | None = None,
    **changes: Any,  # noqa: ANN401 - as zoo.load takes them
) -> Encoder:
    """The encoder, on the GPU where there is one.

    Args:
        model: a name of the catalogue, or a run or export folder, of which nothing is changed.
        weights: a file, for a name.
        preprocess: for a name, constants that differ from the card's.
        changes: for a name, arguments of the architecture that differ from the card's.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if is_folder(model):
        return zoo.load(model, device=device)
    return zoo.load(model, weights=weights, device=device, preprocess=preprocess, **changes)


def published(model: str, dataset: str, metric: str) -> dict[str, float]:
    """Protocol -> number in per cent, of a model of the catalogue; of anything else none."""
    if is_folder(model):
        return {}
    card, size = zoo.card(model), size_of(model)
    return {
        result.protocol: result.value
        for result in card.results
        if (result.size, result.dataset, result.metric) == (size, dataset, metric)
    }


def size_of(model: str) -> str:
    """The size of a model of the catalogue, "" of anything else: recipes differ by it."""
    return "" if is_folder(model) else zoo.card(model).size_of(find(model)[0].name)
