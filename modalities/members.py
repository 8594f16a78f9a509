"""One member of a sample -> plain values, bounded and safe on hostile bytes.

What a member is follows from its extension, as in WebDataset. Sizes are checked against what the
header promises before anything of that size is allocated, nothing is ever unpickled, and whatever
a decoder says about bad bytes becomes one `DataError` with a code of specification `data`, 6.2.

Notation: C channels, H and W pixels, T samples of audio.
"""

import gzip
import importlib
import io
import json
import math
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from torch import Tensor
from zoo.modalities.bounds import (
    MAX_BYTES,
    MAX_COMPRESSED,
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_SECONDS,
    MAX_TEXT,
    check_size,
    decoding,
)
from zoo.modalities.contracts import Buffer, decode_label
from zoo.modalities.images import decode_image

from zoo.errors import DataError, UsageError

__all__ = ["Audio", "decode_member", "find_member"]


class Audio(NamedTuple):
    """Sound as it was stored: nothing resampled, no channels mixed."""

    samples: NDArray[np.float32]  # (C, T); whole numbers are scaled to [-1, 1)
    rate: int  # samples a second


def find_member(
    members: Mapping[str, Buffer], extensions: Sequence[str], *, what: str
) -> tuple[str, Buffer]:
    """The first of `extensions` that the sample has, with its bytes.

    Raises:
        DataError: MISSING_PART where it has none.
    """
    for extension in extensions:
        if extension in members:
            return extension, members[extension]
    raise DataError(
        f"no {what} member ({', '.join(extensions)}) among {sorted(members)}", code="MISSING_PART"
    )


def decode_member(extension: str, data: Buffer) -> object:
    """The value of one member.

    | extension | value |
    |---|---|
    | jpg, jpeg, png, webp | uint8 tensor (1, H, W) or (3, H, W) |
    | txt, json, cls | str, object, int |
    | npy, npz | array, dict of arrays |
    | wav, flac | `Audio`; flac needs the package `soundfile` |
    | safetensors | dict of tensors |
    | pth, pt | tensor, or dict of tensors; anything else in them is refused |
    | pyd, pickle, pkl | refused |
    | anything else | the bytes |

    An extension of several parts (`seg.png`) is a name of the data set's own and stays bytes,
    except for a `.gz` at its end: that is inflated, once, and what is still gzip then stays bytes.

    Args:
        extension: all that follows the first dot of the member's name.
        data: the member's bytes; the value shares no memory with them.

    Raises:
        DataError: the bytes are not what the extension says; `code` is EMPTY_PART, TOO_LARGE,
            UNSAFE_FORMAT, NONFINITE or DECODE.
        UsageError: a package is missing that the format needs.
    """
    kind = extension.lower()
    with decoding(f"damaged {extension}"):
        if kind.rpartition(".")[2] == "gz":
            kind = kind.removesuffix("gz").removesuffix(".")
            check_size(f"{extension} member", len(data), MAX_COMPRESSED)
            stream = gzip.GzipFile(fileobj=io.BytesIO(data))
            data = _inflate(stream, MAX_TEXT if kind in _TEXTS else MAX_BYTES)
            if bytes(data[:2]) == b"\x1f\x8b":
                return bytes(data)
        check_size(f"{kind or 'gz'} member", len(data), _LIMITS.get(kind, MAX_BYTES))
        if not len(data) and kind in _DECODERS and kind != "txt":
            raise DataError(f"empty {extension} member", code="EMPTY_PART")
        return _DECODERS.get(kind, bytes)(data)


def _json(data: Buffer) -> object:
    too_deep = DataError(f"json is nested deeper than {MAX_DEPTH}", code="TOO_LARGE")
    try:
        value: object = json.loads(bytes(data))
    except RecursionError:
        raise too_deep from None
    layer: list[dict[str, object] | list[object]] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        layer = [
            child
            for parent in layer
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not layer:
            return value
    raise too_deep


def _npy(data: Buffer) -> NDArray[np.generic]:
    header = io.BytesIO(data[:65_536])  # more than numpy accepts
    version = npy_format.read_magic(header)
    readers = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }
    if version not in readers:
        raise DataError(f"npy of version {version} is not supported")
    shape, fortran_order, dtype = readers[version](header)
    if dtype.hasobject:
        raise DataError("npy of Python objects: refused, as pickles are", code="UNSAFE_FORMAT")
    count = math.prod(shape)
    check_size("npy array", count * dtype.itemsize, MAX_BYTES)
    flat = np.frombuffer(data, dtype, count, offset=header.tell())
    array = flat.reshape(shape, order="F" if fortran_order else "C")
    if dtype.kind in "fc" and not np.isfinite(array).all():
        raise DataError("npy holds NaN or Inf", code="NONFINITE")
    return array.copy(order="K")


def _npz(data: Buffer) -> dict[str, NDArray[np.generic]]:
    with _open_zip(data, "npz", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)) as archive:
        arrays = {}
        for info in archive.infolist():
            with archive.open(info) as entry:
                arrays[info.filename.removesuffix(".npy")] = _npy(_inflate(entry, MAX_BYTES))
        return arrays


def _open_zip(data: Buffer, kind: str, methods: tuple[int, ...]) -> zipfile.ZipFile:
    """A zip whose entries are few, small together, and packed by `methods` only."""
    whole = bytes(data)
    if whole.count(b"PK\x01\x02") > MAX_ENTRIES:
        raise DataError(f"{kind} of more than {MAX_ENTRIES} entries", code="TOO_LARGE")
    archive = zipfile.ZipFile(io.BytesIO(whole))
    entries = archive.infolist()
    check_size(f"inflated {kind}", sum(entry.file_size for entry in entries), MAX_BYTES)
    if any(entry.compress_type not in methods for entry in entries):
        raise DataError(f"{kind} with a compression that is not supported")
    return archive


def _inflate(stream: IO[bytes] | gzip.GzipFile, limit: int) -> memoryview:
    inflated = bytearray()
    while chunk := stream.read(1 << 20):
        inflated += chunk
        check_size("inflated member", len(inflated), limit)
    return memoryview(inflated)


def _wav(data: Buffer) -> Audio:
    """RIFF WAVE of whole numbers (8 to 32 bits) or floats (32, 64)."""
    view = memoryview(data)
    if (bytes(view[:4]), bytes(view[8:12])) != (b"RIFF", b"WAVE"):
        raise DataError("not a RIFF WAVE file")
    header, at = None, 12
    for _ in range(MAX_ENTRIES):
        if at + 8 > len(view):
            break
        name, size = struct.unpack_from("<4sI", view, at)
        body = view[at + 8 : at + 8 + size]
        if name == b"fmt ":
            header = body
        elif name == b"data" and header is not None:
            if len(body) < size:  # a pipe that wrote it did not know, or the end is lost
                warnings.warn("a wav is shorter than its header says", stacklevel=2)
            return _waveform(header, body)
        at += 8 + size + size % 2
    raise DataError("wav without sound")


def _waveform(header: memoryview, body: memoryview) -> Audio:
    code, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", header)
    if code == 0xFFFE:  # extensible: the format is further on
        (code,) = struct.unpack_from("<H", header, 24)
    width = block // max(channels, 1)
    # Bytes a sample -> how numpy reads it; three bytes become the upper ones of four.
    kinds = {1: {1: "u1", 2: "<i2", 3: "<i4", 4: "<i4"}, 3: {4: "<f4", 8: "<f8"}}
    dtype = kinds.get(code, {}).get(width)
    if dtype is None or block != width * channels or not rate:
        raise DataError(f"wav of format {code} with {bits} bits is not supported")
    frames = len(body) // block
    _check_audio("wav", frames, channels, rate)
    raw = np.frombuffer(body, np.uint8, frames * block)
    if width == 3:
        raw, width = np.pad(raw.reshape(-1, 3), ((0, 0), (1, 0))).reshape(-1), 4
    with np.errstate(over="ignore", invalid="ignore"):
        samples = raw.view(dtype).astype(np.float32)
    if code == 1:
        samples -= 128 if width == 1 else 0
        samples /= 2.0 ** (8 * width - 1)
    if not np.isfinite(samples).all():
        raise DataError("wav holds NaN or Inf", code="NONFINITE")
    return Audio(np.ascontiguousarray(samples.reshape(frames, channels).T), rate)


def _flac(data: Buffer) -> Audio:
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError):
        raise UsageError("flac needs the package soundfile: pip install 'zoo[audio]'") from None
    if bytes(data[:4]) != b"fLaC":  # libsndfile would try every format that it knows
        raise DataError("not a FLAC file")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        _check_audio("flac", file.frames, file.channels, file.samplerate)
        samples = file.read(dtype="float32", always_2d=True)
    return Audio(np.ascontiguousarray(samples.T), file.samplerate)


def _check_audio(kind: str, frames: int, channels: int, rate: int) -> None:
    if not frames:
        raise DataError(f"{kind} without samples", code="EMPTY_PART")
    if frames > MAX_SECONDS * rate:
        long = f"{frames / rate:.0f} seconds, more than {MAX_SECONDS}"
        raise DataError(f"{kind} of {long}", code="TOO_LARGE")
    check_size(f"{kind} as float32", 4 * frames * channels, MAX_BYTES)


def _safetensors(data: Buffer) -> dict[str, Tensor]:
    from safetensors.torch import load

    return _finite_tensors("safetensors", load(bytes(data)))


def _torch_file(data: Buffer) -> dict[str, Tensor] | Tensor:
    """What `torch.save` wrote, where it holds tensors and nothing else."""
    value = None
    if bytes(data[:2]) == b"PK":  # else a pickle of before torch 1.6
        _open_zip(data, "pth", (zipfile.ZIP_STORED,)).close()
        with suppress(pickle.UnpicklingError):
            value = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if isinstance(value, Tensor):
        return _finite_tensors("pth", {"": value})[""]
    if isinstance(value, dict) and all(isinstance(item, Tensor) for item in value.values()):
        return _finite_tensors("pth", value)
    raise DataError("pth of more than tensors: store safetensors", code="UNSAFE_FORMAT")


def _finite_tensors(kind: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # A tensor may be larger than what was stored: by its strides, or by a size that lies.
    check_size(kind, sum(tensor.nbytes for tensor in tensors.values()), MAX_BYTES)
    for name, tensor in tensors.items():
        values = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # 8-bit floats
        if not torch.isfinite(values).all():
            raise DataError(f"{kind}: {name} holds NaN or Inf", code="NONFINITE")
    return tensors


def _refuse_pickle(data: Buffer) -> None:
    raise DataError("pickles can run code: store json, npy or safetensors", code="UNSAFE_FORMAT")


_TEXTS = ("txt", "json")
_DECODERS: dict[str, Callable[[Buffer], object]] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), decode_image),
    **dict.fromkeys(("pth", "pt"), _torch_file),
    **dict.fromkeys(("pyd", "pickle", "pkl"), _refuse_pickle),
    "txt": lambda data: str(data, "utf-8"),
    "cls": lambda data: decode_label(bytes(data[:64])),
    "json": _json,
    "npy": _npy,
    "npz": _npz,
    "safetensors": _safetensors,
    "wav": _wav,
    "flac": _flac,
}
_LIMITS = {
    **dict.fromkeys(_TEXTS, MAX_TEXT),
    **dict.fromkeys(("jpg", "jpeg", "png", "webp", "npz", "flac"), MAX_COMPRESSED),
}
