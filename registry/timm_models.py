"""Models of timm as rows and cards: `timm/NAME`, or `timm/NAME.TAG` for a set of its weights.

What timm says of its weights (where they lie, pixel statistics, interpolation, licence) is taken
from it when it is asked for. timm takes seconds to import.
"""

from functools import cache
from importlib import import_module
from typing import Any

from zoo.registry.card import Card, Licence, Weights
from zoo.registry.catalogue import Row
from zoo.registry.foreign import SIZE, bare, find_row

__all__ = ["card", "find", "rows"]

_PREFIX = "timm/"
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "mit": "MIT",
    "unknown": "NONE",
    None: "NONE",
}


@cache
def rows() -> tuple[Row, ...]:
    """Every architecture, its default weights first among the tags."""
    timm = import_module("timm")
    tags: dict[str, list[str]] = {name: [] for name in timm.list_models()}
    for name in timm.list_models(pretrained=True):
        architecture, _, tag = name.partition(".")
        if timm.get_pretrained_cfg(name).hf_hub_id:
            tags[architecture].append(tag)
    return tuple(_row(name, found) for name, found in tags.items())


def find(name: str) -> tuple[Row, str | None]:
    """The row of `timm/NAME` or `timm/NAME.TAG`; with a tag it is the row of these weights.

    Raises:
        UnknownNameError: timm has no such model, or no such weights of it.
    """
    row, tag = find_row(name, rows())
    return (row._replace(licence=_licence(_facts(name))), tag) if tag else (row, None)


def card(name: str) -> Card:
    """The card of `timm/NAME` (with what belongs to its default weights) or `timm/NAME.TAG`.

    Raises:
        UnknownNameError: timm has no such model, or no such weights of it.
    """
    row, _ = find(name)
    facts = _facts(name)
    _, side, _ = facts.input_size
    return Card(
        family=row.name,
        modality="vision",
        summary=row.summary,
        default_size=SIZE,
        encoder={"name": "timm", "img_size": side, "in_chans": facts.input_size[0]},
        sizes={SIZE: {"model": bare(name)}},
        preprocess={
            "mean": list(facts.mean),
            "std": list(facts.std),
            "interpolation": facts.interpolation,
            "crop_pct": facts.crop_pct,
            "crop_mode": facts.crop_mode,
        },
        licence=Licence(code="Apache-2.0", weights=row.licence),
        weights=tuple(_weights(name, tag) for tag in row.tags),
    )


def _row(architecture: str, tags: list[str]) -> Row:
    facts = _facts(architecture)
    return Row(
        name=_PREFIX + architecture,
        family=_PREFIX + architecture,
        modality="vision",
        objective="",
        summary="an image encoder of timm",
        licence=_licence(facts) if tags else "",
        tags=tuple(sorted(tags, key=lambda tag: tag != facts.tag)),
        default=False,
        path="",
    )


def _weights(name: str, tag: str) -> Weights:
    facts = _facts(f"{bare(name)}.{tag}")
    return Weights(
        tag=tag,
        size=SIZE,
        repo=facts.hf_hub_id,
        file=facts.hf_hub_filename or "model.safetensors",
        layout="timm",
        licence=_licence(facts),
    )


def _facts(name: str) -> Any:  # noqa: ANN401 - timm's PretrainedCfg, and timm comes without types
    return import_module("timm").get_pretrained_cfg(name.removeprefix(_PREFIX))


def _licence(facts: Any) -> str:  # noqa: ANN401
    return _SPDX.get(facts.license, facts.license)
