"""Models of open_clip as rows and cards: `open-clip/NAME`, or `open-clip/NAME.TAG` with weights.

Pixel statistics, interpolation, the way to resize and the activation are those that open_clip says
of a tag: they belong to the weights, not to the name. A tokenizer that is not CLIP's comes from the
repository that open_clip names. Models with a text tower of transformers, and CoCa, are left out.
open_clip takes seconds to import.
"""

from functools import cache
from importlib import import_module
from typing import Any

from zoo.registry.card import Card, Licence, Weights
from zoo.registry.catalogue import Row
from zoo.registry.foreign import SIZE, bare, find_row

from zoo.errors import UsageError

__all__ = ["card", "find", "rows"]

_PREFIX = "open-clip/"
_MODES = {"shortest": "center", "squash": "squash"}


@cache
def rows() -> tuple[Row, ...]:
    """Every model, its tags in open_clip's order."""
    library = _library()
    tags: dict[str, list[str]] = {name: [] for name in library.list_models() if _is_known(name)}
    for name, tag in library.list_pretrained():
        facts = library.get_pretrained_cfg(name, tag)
        if name in tags and facts.get("hf_hub") and facts["resize_mode"] in _MODES:
            tags[name].append(tag)
    return tuple(_row(name, found) for name, found in tags.items())


def find(name: str) -> tuple[Row, str | None]:
    """The row of `open-clip/NAME` or `open-clip/NAME.TAG`; with a tag, of these weights.

    Raises:
        UnknownNameError: open_clip has no such model, or no such weights of it.
    """
    return find_row(name, rows())


def card(name: str) -> Card:
    """The card of `open-clip/NAME` (with what belongs to its first tag) or `open-clip/NAME.TAG`.

    Raises:
        UnknownNameError: open_clip has no such model, or no such weights of it.
    """
    row, _ = find(name)
    model = bare(name)
    facts = _library().get_pretrained_cfg(model, row.tags[0]) if row.tags else {}
    quick = facts.get("quick_gelu", _library().get_model_config(model).get("quick_gelu", False))
    constants = ("mean", "std", "interpolation")
    return Card(
        family=row.name,
        modality="vision",
        summary=row.summary,
        default_size=SIZE,
        encoder={"name": "open_clip", "quick_gelu": quick},
        sizes={SIZE: {"model": model}},
        preprocess={
            "crop_pct": 1.0,
            "scale": [0.9, 1.0],
            "hflip": 0.0,  # a mirrored text is none
            "crop_mode": _MODES[facts.get("resize_mode", "shortest")],
            **{key: facts[key] for key in constants if key in facts},
        },
        licence=Licence(code="MIT", weights=row.licence),
        weights=tuple(_weights(model, tag) for tag in row.tags),
    )


def _row(model: str, tags: list[str]) -> Row:
    return Row(
        name=_PREFIX + model,
        family=_PREFIX + model,
        modality="vision",
        objective="",
        summary="towers of images and texts of open_clip",
        licence="NONE" if tags else "",  # open_clip does not say: it is the repository's
        tags=tuple(tags),
        default=False,
        path="",
    )


def _weights(model: str, tag: str) -> Weights:
    parts = _library().get_pretrained_cfg(model, tag)["hf_hub"].split("/")
    return Weights(
        tag=tag,
        size=SIZE,
        repo="/".join(parts[:2]),
        file="/".join(parts[2:]) or _library().constants.HF_SAFE_WEIGHTS_NAME,
        layout="open_clip",
        tokenizer=_library().get_model_config(model)["text_cfg"].get("hf_tokenizer_name"),
        licence="NONE",
    )


def _is_known(model: str) -> bool:
    facts = _library().get_model_config(model)
    return "multimodal_cfg" not in facts and "hf_model_name" not in facts["text_cfg"]


def _library() -> Any:  # noqa: ANN401 - open_clip comes without types
    try:
        return import_module("open_clip")
    except ImportError:
        raise UsageError("open-clip/... needs open_clip: pip install 'zoo[contrastive]'") from None
