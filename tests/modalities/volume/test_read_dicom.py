import shutil
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.dicom import find_series
from zoo.modalities.volume.read import read_volume
from zoo.modalities.volume.transforms import orient

from zoo.cli.shards.build import command
from zoo.errors import DataError

dataset = pytest.importorskip("pydicom.dataset")
uid = pytest.importorskip("pydicom.uid")

HU = np.random.default_rng(0).integers(-1024, 1500, (4, 6, 5), dtype=np.int16)  # slice, row, column
PLAIN = {"SeriesInstanceUID": "1.2.3", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


def write(path, pixels, position, *, syntax=uid.ExplicitVRLittleEndian, **changes):
    meta = dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = uid.CTImageStorage, syntax
    meta.MediaStorageSOPInstanceUID = "1.2.9"
    slice_ = dataset.FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    slice_.Modality, slice_.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    slice_.Rows, slice_.Columns = pixels.shape
    slice_.PixelSpacing, slice_.SliceThickness = [0.9, 0.8], 2.5
    slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    slice_.BitsAllocated = slice_.BitsStored = 16
    slice_.HighBit, slice_.PixelRepresentation = 15, 0
    slice_.ImagePositionPatient = list(position)
    slice_.PixelData = (pixels.astype(np.int32) + 1024).astype("<u2").tobytes()
    for name, value in {**PLAIN, **changes}.items():
        setattr(slice_, name, value)
    slice_.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def series(tmp_path):
    for i, name in enumerate("dbca"):  # names in another order than the slices
        write(tmp_path / name, HU[i], (-90, -60, 10 + 2.5 * i))
    (tmp_path / "LICENCE.txt").write_text("no DICOM, and left out")
    return tmp_path


def refused(folder, match):
    with pytest.raises(DataError, match=match) as caught:
        read_volume(folder)
    assert "\n" not in str(caught.value)


def test_series(series):
    volume = read_volume(series)
    assert (volume.shape, volume.modality) == ((5, 6, 4), "ct")
    assert volume.spacing == pytest.approx((0.8, 0.9, 2.5))
    assert np.array_equal(volume.read()[0], HU.T)
    # DICOM's x and y point left and to the back.
    np.testing.assert_allclose(
        volume.affine, [[-0.8, 0, 0, 90], [0, -0.9, 0, 60], [0, 0, 2.5, 10], [0, 0, 0, 1]]
    )
    assert np.array_equal(orient(volume).read()[0], HU.T[::-1, ::-1])


def test_tilted_gantry_shears(tmp_path):
    for i in range(4):
        write(tmp_path / f"{i}", HU[i], (0, 0.5 * i, 2.5 * i))
    np.testing.assert_allclose(read_volume(tmp_path).affine[:3, 2], (0, -0.5, 2.5))


def test_several_series_are_told_apart(series):
    inner = series / "other"
    inner.mkdir()
    for i in range(3):
        write(inner / f"{i}.dcm", HU[i], (0, 0, 3 * i), SeriesInstanceUID="1.2.4")
    assert [len(paths) for paths in find_series(series)] == [4, 3]
    refused(series, "2 DICOM series")
    assert read_volume(inner).spacing[2] == pytest.approx(3)
    refused(inner / "0.dcm", "one DICOM slice")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localiser"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "several orientations"),
        ({"ImagePositionPatient": [-90, -60, 12.5]}, "several slices in one place"),
        ({"ImagePositionPatient": [-90, -60, 21]}, "slices are missing"),
        ({"ImagePositionPatient": [-80, -60, 17.5]}, "not lie behind each other"),
        ({"RescaleIntercept": 0}, "differ in RescaleIntercept"),
        ({"PixelSpacing": [0.9, 0.9]}, "differ in PixelSpacing"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "upside down"),
        ({"NumberOfFrames": 3}, "several frames"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"PixelData": b"ab"}, "damaged DICOM pixels"),
        ({"syntax": uid.DeflatedExplicitVRLittleEndian}, "deflated"),
    ],
)
def test_what_is_no_regular_grid_is_refused(series, changes, match):
    position = changes.get("ImagePositionPatient", (-90, -60, 17.5))
    options = {name: value for name, value in changes.items() if name != "ImagePositionPatient"}
    write(series / "a", HU[3], position, **options)
    refused(series, match)


def test_one_slice_and_truncated_files(series):
    for name in "bcd":
        (series / name).unlink()
    refused(series, "one slice is no volume")
    data = (series / "a").read_bytes()
    (series / "a").write_bytes(data[:400])
    refused(series, "damaged|no |one slice")


def test_folders_of_slices_become_shards(series, tmp_path_factory):
    """With or without an extension; what lies beside them is left out."""
    root = tmp_path_factory.mktemp("patients")
    shutil.copytree(series, root / "a", ignore=shutil.ignore_patterns("*.txt"))
    (root / "b").mkdir()
    for path in (root / "a").iterdir():
        shutil.copy(path, root / "b" / f"{path.name}.DCM")
    (root / "a" / "notes").write_text("no DICOM")
    out = tmp_path_factory.mktemp("shards") / "s"
    done = CliRunner().invoke(
        command, [str(root), str(out), "--modality", "volume", "--workers", "0", "--quiet"]
    )
    assert done.exit_code == 0, done.output
    with tarfile.open(next(out.glob("*.tar"))) as tar:
        stored = {info.name: tar.extractfile(info).read() for info in tar}
    assert sorted(stored) == ["a.ct.b2nd", "a.json", "b.ct.b2nd", "b.json"]
    assert stored["a.ct.b2nd"] == stored["b.ct.b2nd"]
    volume = VolumeCodec().decode({"ct.b2nd": stored["a.ct.b2nd"], "json": stored["a.json"]})
    assert np.array_equal(volume["volume"].read()[0], HU.T[::-1, ::-1])
    (root / "b" / "a.DCM").unlink()
    (root / "b" / "d.DCM").write_bytes((root / "b" / "d.DCM").read_bytes()[:400])
    done = CliRunner().invoke(
        command, [str(root), str(out) + "2", "--modality", "volume", "--workers", "0", "--quiet"]
    )
    assert done.exit_code == 1
    assert str(done.exception).startswith("b: file 3 of the folder: no Rows")
