"""Weights into an encoder: no random initialisation, no copy, every tensor accounted for.

Order: build on the meta device, read the header, map names, check, assign, recompute buffers. The
file is mapped, so loading a ViT-B touches a few pages until the first forward
(benchmarks/speed/loading.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
from zoo.hub.rules import Converted, State
from zoo.modalities.contracts import Encoder, LoadReport, Preprocess
from zoo.modalities.volumes import SequenceEncoder
from zoo.registry.build import Spec, build_encoder

from zoo.errors import UsageError, WeightsError

__all__ = ["INDEX", "check_fit", "files_of_index", "load_beside", "load_encoder", "read_state"]

INDEX = ".safetensors.index.json"
_SHOWN = 10  # names of a list in an error


def load_encoder(
    spec: Spec, path: Path, *, layout: str | None = None, check_finite: bool = True
) -> Encoder:
    """An encoder with the weights of a file, in eval mode on the CPU.

    Args:
        spec: which encoder.
        path: .safetensors, the index of several (.safetensors.index.json), or a .pt / .pth / .bin /
            .ckpt checkpoint (read without running code).
        layout: how the file names its tensors; recognised when not given.
        check_finite: refuse weights that hold NaN or infinity.

    Raises:
        WeightsError: tensors are missing, unexpected, misshapen or not finite.
    """
    with torch.device("meta"):
        encoder = build_encoder(spec)
    converted = _converted(read_state(path), layout or encoder.layout)
    state = converted.encoder
    given = set(state)
    adapted = encoder.adapt(state)
    check_fit(encoder, state, path)
    if check_finite:
        bad = [name for name, value in state.items() if not value.isfinite().all()]
        if bad:
            raise WeightsError(f"{path}: {_some(bad)} hold NaN or infinity")
    encoder.load_state_dict(state, assign=True)
    encoder.init_buffers()
    encoder.load_report = LoadReport(
        source=str(path),
        loaded=tuple(sorted(given & state.keys())),
        resized=tuple(name for name in adapted if name in given),
        new=tuple(name for name in adapted if name not in given),
        ignored=converted.extra
        | dict.fromkeys(converted.objective, "head of a pretraining objective")
        | dict.fromkeys(given - state.keys(), "of a part that this encoder is built without"),
    )
    if converted.objective and isinstance(encoder, SequenceEncoder):
        from zoo.hub.decoder import decoder_of  # knows objectives

        encoder.decoder = decoder_of(spec.name, converted.objective)
    left = [name for name, p in encoder.state_dict().items() if p.is_meta]
    assert not left, f"never given values: {left}"
    return encoder.eval()


def _converted(state: State, layout: str | None) -> Converted:
    if layout == "zoo":
        return Converted(encoder=state)
    from zoo.hub.convert import convert  # zoo's own files should not wait for all foreign layouts

    return convert(state, layout)


def load_beside(preprocess: Preprocess, folder: Path) -> None:
    """Gives preprocessing the files that lie in the folder of foreign weights: a tokenizer.

    Raises:
        DataError: a file that belongs to other weights.
    """
    files = [folder / name for name in preprocess.asset_names]
    preprocess.load_assets({file.name: file.read_bytes() for file in files if file.is_file()})


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a file. Foreign pickles are read with `weights_only`, which runs no code.

    Whatever else such a file holds (optimisers, options) becomes a `_Nothing` and is dropped.

    Raises:
        UsageError: no such file, or a kind of file that holds no weights.
        WeightsError: the file is damaged.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such weights file")
    if path.name.endswith(INDEX):
        return _indexed(path)
    if path.suffix == ".safetensors":
        return _mapped(path)
    if path.suffix not in (".pt", ".pth", ".bin", ".ckpt"):
        raise UsageError(f"{path}: weights come as .safetensors, .pt, .pth, .bin or .ckpt")
    try:
        foreign = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(_Nothing, name) for name in foreign]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # pickle, zip and torch raise many kinds for a damaged file
        line = str(error).splitlines()[0]
        raise WeightsError(f"{path}: not a plain file of tensors ({line})") from None
    for wrapper in ("state", "model", "state_dict", "network_weights", "net", "student"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path}: holds more than a state dict of tensors")
    return content


def _mapped(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged safetensors file ({error})") from None
    return _tied(state, notes)


def _tied(state: dict[str, Tensor], notes: Mapping[str, object]) -> dict[str, Tensor]:
    """Tensors also under the other names that the metadata give them."""
    others = {
        name: state[kept] for name, kept in notes.items() if isinstance(kept, str) and kept in state
    }
    return others | state


def files_of_index(path: Path) -> list[str]:
    """The files that lie beside an index and hold its tensors.

    Raises:
        WeightsError: the index is none.
    """
    return sorted(set(_weight_map(path).values()))


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file."""
    return _index(path)[0]


def _index(path: Path) -> tuple[dict[str, str], dict[str, object]]:
    """Tensor -> file, and the metadata."""
    try:
        content = json.loads(path.read_text())
        table, notes = content["weight_map"], dict(content.get("metadata") or {})
        plain = all(isinstance(v, str) and v == Path(v).name for v in table.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        plain = False
    if not plain:
        raise WeightsError(f"{path}: no index of safetensors files")
    return table, notes


def _indexed(path: Path) -> dict[str, Tensor]:
    (table, notes), state = _index(path), dict[str, Tensor]()
    for name in sorted(set(table.values())):
        part = _mapped(path.with_name(name))
        listed = {key for key, file in table.items() if file == name}
        if differing := sorted(part.keys() ^ listed):
            raise WeightsError(f"{path}: {_some(differing)} are not in {name} as the index says")
        state |= part
    return _tied(state, notes)


class _Nothing:
    """What any class or function of a foreign pickle becomes: built of anything, it keeps none."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def check_fit(encoder: Encoder, state: dict[str, Tensor], path: Path) -> None:
    """Raises WeightsError unless names and shapes are exactly the encoder's."""
    wanted = encoder.state_dict()
    problems = []
    if missing := sorted(wanted.keys() - state.keys()):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(state.keys() - wanted.keys()):
        problems.append(f"unexpected {_some(unexpected)}")
    misshapen = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if misshapen:
        problems.append(f"misshapen {_some(misshapen)}")
    if problems:
        raise WeightsError(f"{path}: these weights are not for this encoder: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
