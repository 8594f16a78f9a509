"""NIfTI-1 and NIfTI-2 in one file, also gzipped; nibabel interprets the header.

The header is read first and says how many bytes may be inflated.
"""

import importlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zoo.modalities.bounds import MAX_BYTES, check_size, decoding
from zoo.modalities.contracts import Buffer
from zoo.modalities.volume.inflate import open_stream, read_all
from zoo.modalities.volume.scan import Scan

from zoo.errors import DataError, UsageError

__all__ = ["is_nifti", "read_nifti"]

_HEADERS = {348: ("Nifti1Header", slice(344, 348)), 540: ("Nifti2Header", slice(4, 8))}
_LARGEST = 540


def is_nifti(start: bytes) -> bool:
    """By the first bytes of what was inflated."""
    return _size_of(start) in _HEADERS


def read_nifti(data: Buffer, name: str) -> Scan:
    """The voxels of a `.nii` or `.nii.gz`.

    Raises:
        DataError: truncated, damaged, larger than the limits, or not what its header says.
        UsageError: nibabel is not installed.
    """
    stream = open_stream(data, name)
    start = stream.read(_LARGEST)
    with decoding(f"{name}: damaged NIfTI header"):
        header = _header(start, name)
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        offset = int(header["vox_offset"]) or _size_of(start) + 4
        slope, intercept = header.get_slope_inter()
        affine, is_known = _affine(header)
    if dtype.kind not in "iuf" or not shape or min(shape) < 1:
        raise DataError(f"{name}: voxels of {dtype} and shape {shape} are not supported")
    size = math.prod(shape) * dtype.itemsize
    if not _size_of(start) <= offset <= MAX_BYTES:
        raise DataError(f"{name}: its voxels cannot begin at byte {offset}")
    check_size(f"{name}: voxels", size, MAX_BYTES)
    check_size(f"{name}: bytes before the voxels", offset, 16 << 20)
    stream.read(max(0, offset - len(start)))
    body = read_all(stream, size, name, head=start[offset:])
    voxels = np.frombuffer(body, dtype).reshape(shape, order="F")
    notes: dict[str, object] = {} if is_known else {"orientation": "unknown"}
    if slope is None:
        notes["scaled"] = False
    return Scan(voxels, affine, slope=slope or 1.0, intercept=intercept or 0.0, notes=notes)


def _size_of(start: bytes) -> int:
    """What a NIfTI header says first: its own size."""
    size = int.from_bytes(start[:4], "little")
    return size if size in _HEADERS else int.from_bytes(start[:4], "big")


def _header(start: bytes, name: str) -> Any:  # noqa: ANN401 - nibabel has no types
    size = _size_of(start)
    if len(start) < size:
        raise DataError(f"{name}: truncated in its header", code="TRUNCATED")
    kind, magic = _HEADERS[size]
    if start[magic][:2] == b"ni":
        raise DataError(f"{name}: its voxels lie in another file; join them: x.nii")
    if start[magic][:2] != b"n+":
        raise DataError(f"{name}: not a NIfTI file (Analyze has no orientation)")
    try:
        nifti = importlib.import_module("nibabel")
    except ImportError:
        raise UsageError("NIfTI needs the package nibabel: pip install 'zoo[volume]'") from None
    return getattr(nifti, kind)(start[:size], check=False)


def _affine(header: Any) -> tuple[NDArray[np.float64], bool]:  # noqa: ANN401
    """The affine, and whether anything in the header vouches for its orientation."""
    is_known = bool(header["sform_code"] > 0 or header["qform_code"] > 0)
    if not is_known:
        edges = header["pixdim"][1:4]
        header["pixdim"][1:4] = np.where(np.isfinite(edges) & (edges > 0), edges, 1.0)
    return np.asarray(header.get_best_affine(), np.float64), is_known
