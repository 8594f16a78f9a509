"""`zoo.create` and `zoo.load`: an encoder by name, or from a folder."""

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from zoo.errors import UsageError
from zoo.hub.export import CONFIG, HUB, load_export
from zoo.hub.weights import load_beside, load_encoder
from zoo.modalities.contracts import Encoder, LoadReport
from zoo.registry.build import Spec, build_encoder, encoder_spec
from zoo.registry.card import Trained, Weights
from zoo.registry.catalogue import card, find, is_folder

__all__ = ["create", "load"]

_log = logging.getLogger("zoo")


def create(
    name: str,
    *,
    seed: int | None = None,
    preprocess: Mapping[str, object] | None = None,
    **changes: object,
) -> Encoder:
    """An encoder with random weights, in train mode.

    Args:
        name: a model of the catalogue, "timm/NAME" or "open-clip/NAME".
        seed: makes the weights reproducible without touching torch's global generator.
        preprocess: constants of the preprocessing that differ from the card's.
        changes: arguments of the architecture that differ from the card's, such as depth=2.

    Raises:
        UnknownNameError: no such model.
        ConfigError: no such argument, or of the wrong type.
    """
    spec = encoder_spec(name, changes, preprocess)
    if seed is None:
        encoder = build_encoder(spec)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = build_encoder(spec)
    new = tuple(sorted(encoder.state_dict()))
    encoder.load_report = LoadReport(source="random weights", new=new)
    return encoder


def load(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    layout: str | None = None,
    preprocess: Mapping[str, object] | None = None,
    **changes: object,
) -> Encoder:
    """A pretrained encoder, in eval mode, with its own preprocessing.

    Args:
        source: a run or export folder (a Path, or a string with a slash), a name of the catalogue
            or "timm/NAME" (the weights come from the Hugging Face Hub, or are trained here once
            where the card says so), or "hf-hub:ORG/NAME" with "@REVISION" after it if need be,
            where somebody published an export.
        weights: for a name, a file of weights in zoo's or the authors' layout.
        device: where to put it; the CPU by default.
        dtype: "float32", "bfloat16" or "float16"; as in the file by default.
        layout: how a foreign file names its tensors; recognised when not given.
        preprocess: for a name, constants of the preprocessing that differ from the card's
            ({"sequences": ["t1", "t2"]}).
        changes: for a name, arguments of the architecture that differ from the card's
            (img_size=448).

    Returns:
        The encoder; `load_report` accounts for every tensor, `preprocess` and `embed` are ready.

    Raises:
        UnknownNameError, UsageError: there is no such thing, or its weights go with other constants
            of the preprocessing.
        WeightsError, IntegrityError: the weights do not fit, or are damaged.
        ZooError: the Hub cannot be reached.
    """
    is_remote = isinstance(source, str) and source.startswith(HUB)
    if is_folder(source):
        if weights is not None or preprocess or changes:
            raise UsageError(f"{source}: it brings its own weights and arguments")
        if is_remote:
            from zoo.hub.published import published_folder  # a folder needs no client

            encoder = load_export(published_folder(str(source).removeprefix(HUB)))
        else:
            encoder = _from_folder(Path(source))
    else:
        encoder = _from_catalogue(str(source), weights, layout, preprocess, changes)
    if dtype is not None:
        encoder.to(_dtype(dtype))
    return encoder.to(device) if device is not None else encoder


def _from_folder(folder: Path) -> Encoder:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    if (folder / CONFIG).exists():
        return load_export(folder)
    from zoo.runs import CONFIG as RUN_CONFIG  # an export needs nothing of all that runs need
    from zoo.runs import Run

    if not (folder / RUN_CONFIG).exists():
        raise UsageError(f"{folder}: holds neither a run nor an exported encoder")
    return Run(folder).load()


def _from_catalogue(
    name: str,
    weights: str | Path | None,
    layout: str | None,
    preprocess: Mapping[str, object] | None,
    changes: Mapping[str, object],
) -> Encoder:
    row, tag = find(name)
    one = card(name)
    known = one.weights_of(one.size_of(row.name))
    if not all(entry.may_be_shared for entry in known if isinstance(entry, Weights)):
        _say_unlicensed(row.name)
    spec = encoder_spec(name, changes, preprocess)
    if weights is not None:
        encoder = load_encoder(spec, Path(weights), layout=layout)
        load_beside(encoder.preprocess, Path(weights).parent)
        return encoder
    if not known:
        raise UsageError(
            f"{row.name} has no published weights: zoo.pretrain makes some, "
            "zoo.create gives random ones"
        )
    entry = next((entry for entry in known if entry.tag == tag), known[0])
    if isinstance(entry, Trained):
        return _trained_here(row.name, entry, {**changes, **(preprocess or {})})
    if preprocess:
        _check_bound(spec, encoder_spec(name, changes))
    return _published(spec, entry)


def _published(spec: Spec, entry: Weights) -> Encoder:
    from zoo.hub.published import published_assets, published_weights

    path = published_weights(entry)
    encoder = load_encoder(spec, path, layout=entry.layout)
    folder = published_assets(entry, encoder.preprocess.asset_names)
    load_beside(encoder.preprocess, folder)
    return encoder


def _trained_here(name: str, entry: Trained, given: Mapping[str, object]) -> Encoder:
    if given:
        raise UsageError(
            f"{name}.{entry.tag}: it is trained as its card says; leave out {', '.join(given)}, or "
            "pretrain one with them (zoo.pretrain)"
        )
    from zoo.first_use import trained_run  # knows the engine

    return trained_run(name, entry).load()


def _check_bound(spec: Spec, published: Spec) -> None:
    """Refuses constants of the preprocessing that the weights were not trained with."""
    with torch.device("meta"):
        given, wanted = (build_encoder(one).preprocess.bound for one in (spec, published))
    for key, value in wanted.items():
        if given[key] != value:
            raise UsageError(
                f"{spec.name}: its weights were trained with preprocess.{key} = {value}, not "
                f"{given[key]}; leave it out, or give weights of your own (weights=FILE)"
            )


@cache
def _say_unlicensed(name: str) -> None:
    _log.warning(
        "%s: its authors state no licence for the published weights: ask them before you use "
        "these beyond research; zoo does not pass them on",
        name,
    )


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise UsageError(f"dtype {dtype!r}: choose {', '.join(known)}")
    return known[dtype]
