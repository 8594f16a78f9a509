"""A DICOM series: one file a slice; pydicom reads the headers and the pixels.

Slices are put in order by where they lie along their normal. What cannot be one regular grid is
refused: localisers, mixed orientations, missing or repeated slices, slices of different scales.
"""

import importlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zoo.modalities.bounds import MAX_BYTES, check_size, decoding
from zoo.modalities.contracts import Buffer
from zoo.modalities.volume.scan import Scan

from zoo.errors import DataError, UsageError

__all__ = ["File", "find_series", "read_series", "series_of"]

File = Path | Buffer

_DEFLATED = "1.2.840.10008.1.2.1.99"  # inflating it has no bound
_GAP = 0.01  # of a step: how far a slice may lie from its place
_ALIKE = ("Rows", "Columns", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
_NEEDED = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient")


def find_series(folder: str | Path) -> list[list[File]]:
    """The files of every series below a folder, as `series_of`."""
    return series_of([path for path in sorted(Path(folder).rglob("*")) if path.is_file()])


def series_of(files: Iterable[File]) -> list[list[File]]:
    """The files of every series, in the order of their UIDs; what is no DICOM is left out.

    Raises:
        DataError: a file cannot be read; names it.
        UsageError: pydicom is not installed.
    """
    pydicom = _pydicom()
    series: dict[str, list[File]] = defaultdict(list)
    for number, file in enumerate(files):
        name = _name(file, number)
        if _is_dicom(file):
            with decoding(f"{name}: damaged DICOM header"):
                _refuse_deflated(pydicom, file, name)
                tags = ["SeriesInstanceUID"]
                header = pydicom.dcmread(_bytes(file), stop_before_pixels=True, specific_tags=tags)
            if "SeriesInstanceUID" in header:  # a DICOMDIR has none
                series[str(header.SeriesInstanceUID)].append(file)
    return [series[uid] for uid in sorted(series)]


def read_series(files: Sequence[File], name: str) -> Scan:
    """The voxels of one series, in HU where it is CT.

    Args:
        files: one a slice, in any order.
        name: in messages.

    Raises:
        DataError: it is no regular grid of slices, damaged, or larger than the limits.
        UsageError: pydicom is not installed.
    """
    pydicom = _pydicom()
    headers = []
    for number, file in enumerate(files):
        own = _name(file, number)
        check_size(own, file.stat().st_size if isinstance(file, Path) else len(file), MAX_BYTES)
        with decoding(f"{own}: damaged DICOM header"):
            _refuse_deflated(pydicom, file, own)
            headers.append(pydicom.dcmread(_bytes(file), stop_before_pixels=True))
        _check_slice(headers[-1], own)
    with decoding(f"{name}: damaged DICOM series"):
        _check_alike(headers, name)
        order, step = _in_order(headers, name)
        first = headers[order[0]]
        affine = _affine(first, step)
    size = 4 * math.prod((first.Rows, first.Columns, len(headers)))
    check_size(f"{name}: voxels", size, MAX_BYTES)
    slices = []
    for i in order:
        with decoding(f"{_name(files[i], i)}: damaged DICOM pixels"):
            slices.append(pydicom.dcmread(_bytes(files[i])).pixel_array.T)  # (columns, rows)
    return Scan(
        np.stack(slices, axis=2),
        affine,
        slope=float(first.get("RescaleSlope", 1.0)),
        intercept=float(first.get("RescaleIntercept", 0.0)),
        modality=str(first.get("Modality", "")).lower(),
    )


def _pydicom() -> Any:  # noqa: ANN401 - typed in part only
    try:
        return importlib.import_module("pydicom")
    except ImportError:
        raise UsageError("DICOM needs the package pydicom: pip install 'zoo[volume]'") from None


def _name(file: File, number: int) -> str:
    return str(file) if isinstance(file, Path) else f"file {number + 1} of the folder"


def _bytes(file: File) -> Path | BytesIO:
    return file if isinstance(file, Path) else BytesIO(file)


def _is_dicom(file: File) -> bool:
    if not isinstance(file, Path):
        return bytes(file[128:132]) == b"DICM"
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _refuse_deflated(pydicom: Any, file: File, name: str) -> None:  # noqa: ANN401
    with closing(file.open("rb") if isinstance(file, Path) else BytesIO(file)) as opened:
        meta = pydicom.filereader.read_partial(opened, lambda *_: True).file_meta
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        raise DataError(f"{name}: deflated DICOM is refused; save it uncompressed")


def _check_slice(header: Any, name: str) -> None:  # noqa: ANN401
    missing = [tag for tag in _NEEDED if not header.get(tag)]
    wrong = {
        "a localiser, not a slice of a volume": "LOCALIZER" in header.get("ImageType", ()),
        "several frames in one file; convert it with dcm2niix": header.get("NumberOfFrames", 1) > 1,
        "colour": header.get("SamplesPerPixel", 1) != 1,
        "MONOCHROME1, its scale is upside down": header.get("PhotometricInterpretation")
        == "MONOCHROME1",
        f"no {', '.join(missing)}": bool(missing),
    }
    for reason, is_so in wrong.items():
        if is_so:
            raise DataError(f"{name}: {reason}")


def _check_alike(headers: Sequence[Any], name: str) -> None:
    if len(headers) < 2:
        raise DataError(f"{name}: one slice is no volume")
    first = headers[0]
    for header in headers[1:]:
        if not np.allclose(
            header.ImageOrientationPatient, first.ImageOrientationPatient, atol=1e-4
        ):
            raise DataError(f"{name}: slices of several orientations; put them into own folders")
        for tag in _ALIKE:
            if header.get(tag) != first.get(tag):
                raise DataError(
                    f"{name}: slices differ in {tag} ({first.get(tag)}, {header.get(tag)})"
                )


def _in_order(headers: Sequence[Any], name: str) -> tuple[list[int], NDArray[np.float64]]:
    """The slices from the first to the last along their normal, and the way between two (mm)."""
    cosines = np.array(headers[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    places = np.array([header.ImagePositionPatient for header in headers], np.float64)
    along = places @ np.cross(*cosines)
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    usual = float(np.median(steps))
    if steps.min() <= _GAP * usual or usual <= 0:
        at = ", ".join(f"{place:g}" for place in along[order][:-1][steps <= _GAP * usual][:3])
        raise DataError(f"{name}: several slices in one place (at {at} mm)")
    if np.abs(steps - usual).max() > _GAP * usual:
        worst = int(np.abs(steps - usual).argmax())
        gap = f"{steps[worst]:g} mm after slice {worst + 1}, {usual:g} elsewhere"
        raise DataError(f"{name}: slices are missing ({gap})")
    ends = places[order]
    step = (ends[-1] - ends[0]) / (len(ends) - 1)  # not along the normal where the gantry tilts
    line = ends[0] + np.arange(len(ends))[:, None] * step
    if np.abs(ends - line).max() > _GAP * len(ends) * usual:
        raise DataError(f"{name}: its slices do not lie behind each other")
    return order.tolist(), step


def _affine(first: Any, step: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: ANN401
    """From (column, row, slice) to mm, RAS+; DICOM's own axes point left, posterior, superior."""
    across, down = np.array(first.ImageOrientationPatient, np.float64).reshape(2, 3)
    between_rows, between_columns = (float(edge) for edge in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * between_columns, down * between_rows
    affine[:3, 2], affine[:3, 3] = step, first.ImagePositionPatient
    affine[:2] *= -1
    return affine
