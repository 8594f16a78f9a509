"""NRRD with its voxels attached, raw or gzipped; pynrrd interprets the header."""

import importlib
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zoo.modalities.bounds import MAX_BYTES, check_size, decoding
from zoo.modalities.contracts import Buffer
from zoo.modalities.volume.inflate import open_stream, read_all
from zoo.modalities.volume.scan import Scan

from zoo.errors import DataError, UsageError

__all__ = ["is_nrrd", "read_nrrd"]

_HEADER = 64 << 10  # bytes; it is text and ends with an empty line
_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    "float": "f4",
    "double": "f8",
}
_SPACES = {  # what turns each into RAS
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
}
_DETACHED = ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip")


def is_nrrd(start: bytes) -> bool:
    """By its first bytes."""
    return start.startswith(b"NRRD000")


def read_nrrd(data: Buffer, name: str) -> Scan:
    """The voxels of a `.nrrd`.

    Raises:
        DataError: truncated, damaged, larger than the limits, or in a way that is not supported.
        UsageError: pynrrd is not installed.
    """
    try:
        nrrd = importlib.import_module("nrrd")
    except ImportError:
        raise UsageError("NRRD needs the package pynrrd: pip install 'zoo[volume]'") from None
    text = io.BytesIO(data[:_HEADER])
    with decoding(f"{name}: damaged NRRD header"):
        header = nrrd.read_header(text)
        shape = tuple(int(size) for size in header["sizes"])
        kind, encoding = _TYPES.get(header["type"].lower()), header["encoding"].lower()
        axes = [axis for axis, step in enumerate(_steps(header)) if np.isfinite(step).all()]
        affine, is_known = _affine(header, axes)
    if any(field in header for field in _DETACHED):
        raise DataError(f"{name}: its voxels lie in another file or behind a gap; save it anew")
    if kind is None or encoding not in ("raw", "gzip", "gz"):
        raise DataError(f"{name}: {header['type']} voxels, {encoding}: not supported; save as gzip")
    if len(axes) != 3 or len(shape) not in (3, 4) or min(shape) < 1:
        raise DataError(f"{name}: {len(axes)} axes in space, sizes {shape}: not a volume")
    dtype = np.dtype(kind).newbyteorder(">" if header.get("endian") == "big" else "<")
    size = math.prod(shape) * dtype.itemsize
    check_size(f"{name}: voxels", size, MAX_BYTES)
    body = read_all(open_stream(data[text.tell() :], name), size, name)
    voxels = np.frombuffer(body, dtype).reshape(shape, order="F")
    voxels = np.moveaxis(voxels, axes, range(3))
    return Scan(voxels, affine, notes={} if is_known else {"orientation": "unknown"})


def _steps(header: Mapping[str, Any]) -> NDArray[np.float64]:
    """(n, 3) mm from one voxel to the next along each stored axis; NaN where it is not in space."""
    if "space directions" in header:
        return np.asarray(header["space directions"], np.float64)
    edges = np.asarray(header.get("spacings", np.ones(len(header["sizes"]))), np.float64)
    steps = np.full((len(edges), 3), np.nan)
    in_space = np.flatnonzero(np.isfinite(edges))[-3:]
    steps[in_space] = np.diag(edges[in_space])
    return steps


def _affine(header: Mapping[str, Any], axes: list[int]) -> tuple[NDArray[np.float64], bool]:
    """The affine, and whether the header says in which directions its axes point."""
    affine = np.eye(4)
    affine[:3, : len(axes)] = _steps(header)[axes].T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    to_ras = _SPACES.get(str(header.get("space", "")).lower())
    if to_ras is not None:
        affine[:3] *= np.array(to_ras, np.float64)[:, None]
    return affine, to_ras is not None
