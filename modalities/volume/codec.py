"""Volumes in shards: one blosc2 frame of int16 a sequence (`ct.b2nd`), with facts as JSON.

A frame holds chunks of 64 x 64 x 64 voxels, so that a crop decodes only what it touches. They are
intensities as they are (HU for CT), windowed when they are loaded: one shard serves all windows.
NIfTI and NRRD members (`nii.gz`, `t1.nii.gz`, `nrrd`) and the slices of a DICOM series
(`00001.dcm`) are decoded too, whole.
"""

import base64
import hashlib
import importlib
import math
import struct
from collections.abc import Mapping
from collections.abc import Sequence as Several
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from zoo.modalities.beside import decode_beside, encode_beside
from zoo.modalities.bounds import MAX_BYTES, check_size, decoding
from zoo.modalities.contracts import Buffer, Codec, Sample
from zoo.modalities.volume.read import Fourth, open_volume, read_slices, read_volume
from zoo.modalities.volume.resample import resample
from zoo.modalities.volume.transforms import orient
from zoo.modalities.volume.volume import (
    ALL,
    LABELS,
    Box,
    Sequence,
    Volume,
    check_affine,
    know_modality,
    plane_maxima,
)

from zoo.errors import DataError, UsageError

__all__ = ["VolumeCodec"]

RAW = ("nii", "nii.gz", "nrrd")
SLICES = (".dcm", ".ima", ".part")  # numbered files of one folder; part where they had no extension
CHUNK, BLOCK = 64, 32  # voxels along each axis
_LARGEST_CHUNK = 4 << 20  # voxels; whatever others wrote, a crop should stay cheap
_INT16 = np.iinfo(np.int16)
_MODALITIES = ("ct", "mr", "pt")


class VolumeCodec(Codec):
    """{"volume": `Volume`, "facts": dict, "label": int, "text": str} <-> b2nd, json, cls and txt.

    What it writes is oriented (RAS) and, with `spacing`, resampled once and for all.
    """

    parts = frozenset(["dcm", "ima", ""])

    def __init__(self, spacing: tuple[float, float, float] | None = None) -> None:
        """`spacing` in mm of what `encode` writes; None keeps each volume's own."""
        self.spacing = spacing

    def encode(self, raw: Sample) -> dict[str, bytes]:
        """Frames of int16, and facts as JSON with sorted keys: equal samples give equal bytes.

        "volume" is whatever `open_volume` takes; "facts" (licence, source, ...) are kept.

        Raises:
            DataError: it cannot be read, or nothing says whether it is CT or MRI.
        """
        name = str(raw.get("__key__", "volume"))
        volume = open_volume(raw, name)
        volume = orient(replace(volume, modality=know_modality(volume, name)))
        if self.spacing is not None:
            volume = resample(volume, self.spacing, name)
        members, described = {}, {}
        for own_name in volume.sequences:
            label = volume.modality if own_name == "volume" else own_name
            values = volume.read([own_name])[0]
            voxels, scale = _integers(values, whole=volume.modality == "ct", label=label)
            members[f"{label}.b2nd"] = _frame(voxels)
            described[label] = {
                **scale,
                "maxima": _packed(plane_maxima(voxels)),
                "sha256": _digest(voxels),
            }
        own = {
            "affine": volume.affine.tolist(),
            "modality": volume.modality,
            "notes": dict(volume.notes),
            "orientation": "RAS",
            "sequences": described,
            "shape": volume.shape,
            "spacing": volume.spacing,
        }
        facts = cast("dict[str, object]", raw.get("facts", {})) | own
        return {**members, **encode_beside({**raw, "facts": facts})}

    def decode(self, members: Mapping[str, Buffer]) -> Sample:
        """{"volume": `Volume`, "facts": dict}, and "label" and "text" where there are cls and txt.

        Voxels of frames are still compressed, and decoded where they are read.

        Raises:
            DataError: the bytes are not what they claim, or too many.
        """
        beside = decode_beside(members)
        facts = beside.setdefault("facts", {})
        if not isinstance(facts, dict):
            raise DataError("json holds no facts of a volume")
        frames = {
            extension.removesuffix(".b2nd"): data
            for extension, data in members.items()
            if extension.endswith(".b2nd")
        }
        volume = _stored(frames, facts) if frames else _raw(members, facts)
        return {"volume": volume, **beside}

    def store(self, members: Mapping[str, Buffer]) -> dict[str, bytes]:
        """What a shard should hold of a sample: frames as they are, anything else encoded."""
        if any(extension.endswith(".b2nd") for extension in members):
            return {extension: bytes(data) for extension, data in members.items()}
        return self.encode(self.decode(members))

    def measure(self, sample: Sample) -> dict[str, float]:
        """Voxels along each axis, their edges in mm, and extremes; decodes and verifies all of it.

        Raises:
            DataError: voxels differ from their digest.
        """
        volume = sample["volume"]
        assert isinstance(volume, Volume)
        _verify(volume, cast("dict[str, Any]", sample.get("facts", {})).get("sequences", {}))
        values = volume.read()
        lengths = dict(zip(("x", "y", "z"), volume.shape, strict=True))
        edges = dict(zip(("mm_x", "mm_y", "mm_z"), volume.spacing, strict=True))
        return {**lengths, **edges, "min": float(values.min()), "max": float(values.max())}


class _Frame:
    """Voxels (X, Y, Z) in a blosc2 frame."""

    def __init__(self, data: Buffer, name: str) -> None:
        blosc2 = _blosc2()
        self._name = f"damaged {name}"
        with decoding(self._name):
            size = struct.unpack_from(">Q", data, 16)[0]  # of a frame; blosc2 reads as far
            if bytes(data[2:10]) != b"b2frame\x00" or size != len(data):
                raise DataError(f"{self._name} (not one whole blosc2 frame)")
            self._array = blosc2.ndarray_from_cframe(data)
            shape, chunks = self._array.shape, self._array.chunks
            self.shape, self.dtype = tuple(map(int, shape)), np.dtype(self._array.dtype)
            self._array.schunk.dparams = blosc2.DParams(nthreads=1)  # workers share the cores
        if len(shape) != 3 or min(shape) < 1 or self.dtype.str not in ("<i2", "|u1"):
            raise DataError(f"{name}: {self.dtype} of shape {shape}, wanted int16 (X, Y, Z)")
        check_size(f"{name}: as float32", 4 * math.prod(self.shape), MAX_BYTES)
        if math.prod(chunks) > _LARGEST_CHUNK:
            raise DataError(f"{name}: chunks of {chunks} voxels", code="TOO_LARGE")

    def __getitem__(self, key: Box, /) -> NDArray[Any]:
        with decoding(self._name):
            values: NDArray[Any] = self._array[key]
        return values


def _blosc2() -> ModuleType:
    try:
        return importlib.import_module("blosc2")
    except ImportError:
        raise UsageError("volumes need the package blosc2: pip install 'zoo[volume]'") from None


def _frame(voxels: NDArray[Any]) -> bytes:
    blosc2 = _blosc2()
    packing = {
        "codec": blosc2.Codec.ZSTD,
        "clevel": 1,
        "filters": [blosc2.Filter.SHUFFLE],
        "nthreads": 1,  # the bytes must not depend on the machine
    }
    array = blosc2.asarray(
        np.ascontiguousarray(voxels),
        chunks=[min(CHUNK, size) for size in voxels.shape],
        blocks=[min(BLOCK, size) for size in voxels.shape],
        cparams=packing,
    )
    frame: bytes = array.to_cframe()
    return frame


def _integers(
    values: NDArray[np.float32], *, whole: bool, label: str
) -> tuple[NDArray[Any], dict[str, float]]:
    """int16 and what leads back: rounded where that is exact or `whole`, else 65,535 steps."""
    low, high = float(values.min()), float(values.max())
    if label == LABELS:
        if low < 0 or high > _INT16.max:
            raise DataError(
                f"{label}: classes from {low:g} to {high:g}; give it whole numbers, 0 for none, up "
                f"to {_INT16.max}"
            )
        dtype = np.uint8 if high <= 255 else np.int16
        return np.rint(values).astype(dtype), {"slope": 1.0, "intercept": 0.0}
    fits = low >= _INT16.min and high <= _INT16.max
    if fits and (whole or np.array_equal(values, np.rint(values))):
        return np.rint(values).astype(np.int16), {"slope": 1.0, "intercept": 0.0}
    slope = (high - low) / (_INT16.max - _INT16.min) or 1.0
    intercept = low - slope * _INT16.min
    steps = np.clip(np.rint((values - intercept) / slope), _INT16.min, _INT16.max)
    return steps.astype(np.int16), {"slope": slope, "intercept": intercept}


def _packed(maxima: Several[NDArray[Any]]) -> str:
    """Hundreds of numbers as one string: JSON of them would take longer than a crop."""
    return base64.b64encode(np.concatenate(maxima).astype("<i2").tobytes()).decode()


def _unpacked(text: str, shape: Several[int]) -> tuple[NDArray[np.int16], ...]:
    planes = np.frombuffer(base64.b64decode(text, validate=True), "<i2")
    if len(planes) != sum(shape):
        raise DataError("json: its maxima do not fit the shape")
    return tuple(np.split(planes, np.cumsum(shape)[:-1]))


def _digest(voxels: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest()


def _verify(volume: Volume, described: Mapping[str, Mapping[str, object]]) -> None:
    for label, facts in described.items():
        if _digest(volume.sequences[label].voxels[ALL]) != facts.get("sha256"):
            raise DataError(f"{label}.b2nd: its voxels differ from their sha256", code="CHECKSUM")


def _stored(frames: Mapping[str, Buffer], facts: Mapping[str, Any]) -> Volume:
    with decoding("json does not describe the volume"):
        affine = np.array(facts["affine"], np.float64)
        sequences = {
            label: _sequence(_Frame(data, f"{label}.b2nd"), facts["sequences"][label])
            for label, data in sorted(frames.items())
        }
        modality, notes = str(facts["modality"]), dict(facts["notes"])
    check_affine(affine, "json")
    if len({sequence.voxels.shape for sequence in sequences.values()}) > 1:
        raise DataError("the sequences of a sample are of several shapes")
    return Volume(sequences=sequences, affine=affine, modality=modality, notes=notes)


def _sequence(frame: _Frame, facts: Mapping[str, Any]) -> Sequence:
    slope, intercept = float(facts["slope"]), float(facts["intercept"])
    if not (slope > 0 and math.isfinite(slope) and math.isfinite(intercept)):
        raise DataError(f"json: slope {slope}, intercept {intercept}")
    return Sequence(frame, slope, intercept, _unpacked(facts["maxima"], frame.shape))


def _raw(members: Mapping[str, Buffer], facts: Mapping[str, object]) -> Volume:
    """One file, several on one grid, one a sequence, or the slices of one series."""
    volumes: dict[str, Volume] = {}
    slices = [data for extension, data in sorted(members.items()) if extension.endswith(SLICES)]
    if slices:
        modality = str(facts.get("modality", ""))
        volumes[""] = read_slices(slices, name="its folder", modality=modality)
    for extension, data in sorted(members.items()):
        kind = next((kind for kind in RAW if f".{extension}".endswith(f".{kind}")), None)
        if kind is None:
            continue
        label = extension.removesuffix(kind).rstrip(".")
        modality = str(facts.get("modality", ""))
        if label and not modality:
            modality = label if label in _MODALITIES else "mr"
        channels = cast("Fourth | None", facts.get("channels"))
        one = read_volume(data, modality=modality, channels=channels, name=extension)
        volumes[label] = one
    if not volumes:
        raise DataError(
            f"no volume member (NAME.b2nd, {', '.join(RAW)}) among {sorted(members)}",
            code="MISSING_PART",
        )
    return _together(volumes)


def _check_grid(first: Volume, one: Volume, label: str) -> None:
    same_shape = one.shape == first.shape
    if same_shape and np.allclose(one.affine, first.affine, atol=1e-3):
        return
    if same_shape:
        found = "their affines differ"
    else:
        found = " and ".join(" x ".join(map(str, volume.shape)) for volume in (first, one))
    raise DataError(
        f"the files of a sample lie on several grids ({found}, {label or 'the last'} is the odd "
        "one); give a mask the affine of its scan, or resample it to the scan (nearest neighbour)"
    )


def _together(volumes: Mapping[str, Volume]) -> Volume:
    """Volumes on one grid as the sequences of one."""
    first = next(iter(volumes.values()))
    sequences: dict[str, Sequence] = {}
    for label, one in volumes.items():
        _check_grid(first, one, label)
        if len(one.sequences) == 1 and label:
            sequences[label] = next(iter(one.sequences.values()))
        else:
            sequences |= one.sequences
    notes = {name: note for one in volumes.values() for name, note in one.notes.items()}
    intensities = [one for label, one in volumes.items() if label != LABELS] or [first]
    return replace(first, sequences=sequences, modality=intensities[0].modality, notes=notes)
