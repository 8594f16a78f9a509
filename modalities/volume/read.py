"""Files -> volumes: NIfTI, NRRD and DICOM series, told apart by content, because names lie.

Whatever is odd about a file is either refused in one line or noted in the volume.
"""

import warnings
from collections.abc import Mapping
from collections.abc import Sequence as Several
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from zoo.modalities.bounds import MAX_BYTES, check_size
from zoo.modalities.contracts import Buffer, Raw
from zoo.modalities.volume.dicom import File, find_series, read_series, series_of
from zoo.modalities.volume.inflate import open_stream
from zoo.modalities.volume.nifti import is_nifti, read_nifti
from zoo.modalities.volume.nrrd import is_nrrd, read_nrrd
from zoo.modalities.volume.scan import Scan
from zoo.modalities.volume.volume import Sequence, Volume, check_affine, is_thick

from zoo.errors import DataError

__all__ = ["Fourth", "open_volume", "read_slices", "read_volume"]

Fourth = Literal["modality", "time"]  # what a fourth axis is
_BAD = 0.01  # share of voxels that may be NaN or Inf


def open_volume(raw: Raw | Volume, name: str = "volume") -> Volume:
    """A volume of whatever a user hands over.

    Args:
        raw: path of a file or of a DICOM series' folder, a file's bytes, an array (X, Y, Z) or
            (C, X, Y, Z), or a sample: its "volume" is any of these, its "affine" (4, 4) or its
            "spacing" in mm that of an array, which is taken to be RAS; its "modality" what nothing
            else says, its "channels" what a fourth axis of a file is.
        name: in messages, of what is no file.

    Raises:
        DataError: it cannot be read, or is no volume; names it.
        UsageError: a package is missing that reads it.
    """
    facts: Mapping[str, object] = {}
    if isinstance(raw, dict):
        facts, raw = raw, cast("Raw | Volume", raw["volume"])
    if isinstance(raw, Volume):
        return raw
    modality = str(facts.get("modality", "")).lower()
    if isinstance(raw, np.ndarray | Tensor):
        affine = np.asarray(facts.get("affine", np.diag([*_spacing(facts), 1.0])), np.float64)
        array = np.asarray(raw.detach().cpu() if isinstance(raw, Tensor) else raw)
        if array.ndim == 4:
            array = np.moveaxis(array, 0, -1)
        return _checked(Scan(array, affine, modality=modality), name, "", "modality")
    channels = cast("Fourth | None", facts.get("channels"))
    return read_volume(cast("str | Path | bytes", raw), modality=modality, channels=channels)


def read_volume(
    raw: str | Path | Buffer,
    *,
    modality: str = "",
    channels: Fourth | None = None,
    name: str = "volume",
) -> Volume:
    """A volume from a file, a folder of one DICOM series, or a file's bytes.

    Args:
        raw: path or bytes.
        modality: "ct", "mr", ...; the file's own word where it has one and this is empty.
        channels: what a fourth axis is; such files are refused where nobody says it.
        name: in messages, of bytes.

    Raises:
        DataError: not there, no volume, truncated, damaged, larger than the limits; names it.
        UsageError: a package is missing that reads it.
    """
    if not isinstance(raw, str | Path):
        return _checked(_read_bytes(raw, name), name, modality, channels)
    path = Path(raw)
    if path.is_dir():
        return _one_series(find_series(path), str(path), modality)
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            there = "is no file" if path.exists() else "no such file"
            raise DataError(f"{path}: {there}", code="IO")
        check_size(str(path), path.stat().st_size, MAX_BYTES)
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})", code="IO") from None
    return _checked(_read_bytes(data, str(path)), str(path), modality, channels)


def read_slices(files: Several[Buffer], *, name: str = "volume", modality: str = "") -> Volume:
    """A volume from the files' bytes of one DICOM series, in any order; others are left out.

    Raises:
        DataError, UsageError: as `read_volume`.
    """
    return _one_series(series_of(files), name, modality)


def _one_series(series: Several[Several[File]], name: str, modality: str) -> Volume:
    if len(series) != 1:
        raise DataError(f"{name}: {len(series)} DICOM series in it; a folder should hold one")
    return _checked(read_series(series[0], name), name, modality, None)


def _spacing(facts: Mapping[str, object]) -> tuple[float, ...]:
    return cast("tuple[float, ...]", facts.get("spacing", (1.0, 1.0, 1.0)))


def _read_bytes(data: Buffer, name: str) -> Scan:
    if not len(data):
        raise DataError(f"{name}: no bytes", code="EMPTY_PART")
    check_size(name, len(data), MAX_BYTES)
    start = open_stream(data, name).read(16)
    if is_nrrd(start):
        return read_nrrd(data, name)
    if is_nifti(start):
        return read_nifti(data, name)
    if bytes(data[128:132]) == b"DICM":
        raise DataError(f"{name}: one DICOM slice; give the folder of its series")
    raise DataError(f"{name}: neither NIfTI, NRRD nor DICOM")


def _checked(scan: Scan, name: str, modality: str, channels: Fourth | None) -> Volume:
    """The volume of a scan, once everything about it makes sense."""
    check_affine(scan.affine, name)
    voxels, notes = scan.voxels, dict(scan.notes)
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim not in (3, 4) or voxels.dtype.kind not in "iuf" or not voxels.size:
        raise DataError(f"{name}: {voxels.dtype} voxels of shape {voxels.shape} are no volume")
    if voxels.ndim == 4 and channels not in get_args(Fourth):
        raise DataError(
            f"{name}: has a fourth axis of {voxels.shape[3]}; say what it is: "
            'channels="modality" or channels="time"'
        )
    check_size(f"{name}: as float32", 4 * voxels.size, MAX_BYTES)
    if not (np.isfinite(scan.slope) and np.isfinite(scan.intercept)):
        raise DataError(f"{name}: scaled by {scan.slope} and {scan.intercept}")
    if voxels.dtype.kind == "f":
        voxels = _finite(voxels, name, notes)
    if is_thick(scan.affine, name):
        notes["thick_slice"] = True
    if notes.get("orientation") == "unknown":
        warnings.warn(f"{name}: nothing says how it is oriented", stacklevel=3)
    modality = modality.lower() or scan.modality
    parts = {modality or "volume": voxels}
    if voxels.ndim == 4:
        notes["channels"] = channels
        parts = {str(i): voxels[..., i] for i in range(voxels.shape[3])}
    sequences = {label: Sequence(part, scan.slope, scan.intercept) for label, part in parts.items()}
    return Volume(sequences=sequences, affine=scan.affine, modality=modality, notes=notes)


def _finite(
    voxels: NDArray[np.floating], name: str, notes: dict[str, object]
) -> NDArray[np.float32]:
    """As float32, few NaN and Inf replaced by the smallest number."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = voxels.astype(np.float32)
    fine = np.isfinite(values)
    bad = values.size - int(fine.sum())
    if bad > _BAD * values.size:
        share = f"{bad} of {values.size} voxels are NaN or Inf"
        raise DataError(f"{name}: {share}", code="NONFINITE")
    if bad:
        values[~fine] = values[fine].min()
        notes["nonfinite"] = bad
        warnings.warn(f"{name}: {bad} NaN or Inf, now the smallest number", stacklevel=4)
    return values
