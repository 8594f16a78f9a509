import gzip
import io
import struct
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.volume.read import open_volume, read_volume
from zoo.modalities.volume.volume import know_modality

from zoo.errors import DataError

nibabel = pytest.importorskip("nibabel")
nrrd = pytest.importorskip("nrrd")

VOXELS = np.random.default_rng(0).integers(-1024, 3000, (7, 6, 5), dtype=np.int16)
AFFINE = np.array([[-0.8, 0, 0, 90], [0, 0.9, 0, -60], [0, 0, 2.5, 10], [0, 0, 0, 1.0]])


def nifti(voxels=VOXELS, affine=AFFINE, kind=nibabel.Nifti1Image, **header):
    image = kind(voxels, affine)
    for name, value in header.items():
        image.header[name] = value
    return bytearray(image.to_bytes())


def damaged(at, form, value, data=None):
    data = nifti() if data is None else data
    struct.pack_into(form, data, at, value)
    return bytes(data)


def code_of(raw, match, **options):
    with pytest.raises(DataError, match=match) as caught:
        read_volume(raw, **options)
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<f4", "<f8", "<i4"])
def test_nifti(kind, dtype, tmp_path):
    voxels = (VOXELS // 16 + 70).astype(dtype)
    path = tmp_path / "x.nii"
    image = kind(voxels, AFFINE, dtype=np.dtype(dtype))
    nibabel.save(image, path)
    data = path.read_bytes()
    halves = (data[:999], data[999:])
    packed = [gzip.compress(data), b"".join(gzip.compress(half) for half in halves) + bytes(10)]
    for raw in (path, str(path), data, memoryview(data), *packed):
        volume = read_volume(raw)
        assert np.array_equal(volume.read()[0], voxels.astype(np.float32))
        np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
        assert volume.spacing == pytest.approx((0.8, 0.9, 2.5))
        assert (volume.shape, volume.modality) == (VOXELS.shape, "")


def test_scaling_and_a_box():
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    image.header.set_slope_inter(0.5, -3)
    data = bytearray(image.to_bytes())  # nibabel resets what it writes itself
    struct.pack_into("<2f", data, 112, 0.5, -3.0)
    volume = read_volume(bytes(data))
    box = (slice(1, 4), slice(0, 6), slice(2, 5))
    assert np.array_equal(volume.read(box=box)[0], VOXELS[box] * 0.5 - 3)
    assert read_volume(damaged(112, "<f", 0.0)).notes == {"scaled": False}


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize(("space", "signs"), [("LPS", (-1, -1, 1)), ("RAS", (1, 1, 1))])
def test_nrrd(encoding, space, signs):
    file = io.BytesIO()
    header = {
        **{"space": space, "encoding": encoding, "kinds": ["domain"] * 3},
        **{"space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]},
    }
    nrrd.write(file, VOXELS, header, index_order="F")
    data = file.getvalue()
    volume = read_volume(data)
    assert np.array_equal(volume.read()[0], VOXELS)
    np.testing.assert_allclose(volume.affine[:3], AFFINE[:3] * np.array(signs)[:, None])
    cut = code_of(data[:-9], "truncated", name="x.nrrd")
    assert cut == "TRUNCATED"
    code_of(data.replace(b"sizes: 7 6 5", b"sizes: 7 6 4"), "more than the 336 bytes")
    code_of(data.replace(b"sizes: 7 6 5", b"sizes: 7 6 a"), "damaged NRRD header")
    code_of(data.replace(b"sizes: 7 6 5", b"sizes: 99999 99999 5"), "limit")
    code_of(data.replace(b"\n\n", b"\ndata file: /etc/passwd\n\n", 1), "another file")


def test_nrrd_of_several_channels():
    file = io.BytesIO()
    channels = np.stack([VOXELS, VOXELS + 1])
    directions = np.vstack([[np.nan] * 3, np.diag([1.0, 2, 3])])
    header = {"space": "RAS", "kinds": ["list", *["domain"] * 3], "space directions": directions}
    nrrd.write(file, channels, header | {"space origin": [0, 0, 0]}, index_order="F")
    volume = read_volume(file.getvalue(), channels="modality")
    assert np.array_equal(volume.read(), channels)
    assert volume.spacing == (1, 2, 3)


def test_fourth_axis_must_be_named():
    four = np.stack([VOXELS, VOXELS + 1], axis=-1)
    code_of(bytes(nifti(four)), r'fourth axis of 2; .*channels="modality"')
    volume = read_volume(bytes(nifti(four)), channels="time")
    assert np.array_equal(volume.read(), np.moveaxis(four, -1, 0))
    assert volume.notes["channels"] == "time"
    assert read_volume(bytes(nifti(four[..., :1]))).shape == VOXELS.shape


def test_nan_is_replaced_or_refused():
    few, many = (np.random.default_rng(0).normal(size=(10, 10, 10)) for _ in range(2))
    few[0, 0, :3] = np.nan, np.inf, 1e300
    many[:2] = np.nan
    with pytest.warns(UserWarning, match="3 NaN or Inf"):
        volume = read_volume(bytes(nifti(few)))
    assert np.array_equal(volume.read()[0, 0, 0, :3], np.full(3, np.nanmin(few), np.float32))
    assert volume.notes["nonfinite"] == 3
    assert code_of(bytes(nifti(many)), "200 of 1000 voxels") == "NONFINITE"


def test_unknown_orientation_and_thick_slices():
    with pytest.warns(UserWarning, match="nothing says how it is oriented"):
        volume = read_volume(bytes(nifti(affine=None, sform_code=0, qform_code=0)))
    assert volume.notes["orientation"] == "unknown"
    with pytest.raises(DataError, match="CT of unknown orientation"):
        know_modality(volume, "x")
    with pytest.warns(UserWarning, match=r"5\.0:1"):
        volume = read_volume(bytes(nifti(affine=np.diag([1.0, 1, 5, 1]))), modality="ct")
    assert volume.notes["thick_slice"] is True


@pytest.mark.parametrize(
    ("affine", "match"),
    [
        (np.diag([1.0, 1.0, 0.0, 1.0]), "singular"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "not 4 x 4 finite"),
        (np.diag([1.0, 1.0, 1e5, 1.0]), "voxels of 1 x 1 x 1e"),
    ],
)
def test_wrong_affine(affine, match):
    with pytest.raises(DataError, match=match):
        open_volume({"volume": VOXELS, "affine": affine})
    rows = affine[:3].astype("<f4").tobytes()
    data = nifti(sform_code=1, qform_code=0)
    data[280:328] = rows
    code_of(bytes(data), match)


@pytest.mark.parametrize(
    ("raw", "match", "code"),
    [
        (b"", "no bytes", "EMPTY_PART"),
        (b"no volume at all", "neither NIfTI, NRRD nor DICOM", "DECODE"),
        (bytes(nifti()[:300]), "truncated in its header", "TRUNCATED"),
        (bytes(nifti()[:-7]), r"truncated \(413 of 420", "TRUNCATED"),
        (bytes(nifti() + b"more"), "more than the 420 bytes", "DECODE"),
        (damaged(42, "<h", -5), "shape", "DECODE"),
        (damaged(42, "<h", 0), "shape", "DECODE"),
        (damaged(70, "<h", 32), "complex", "DECODE"),
        (damaged(70, "<h", 128), "not supported", "DECODE"),
        (damaged(70, "<h", 999), "damaged NIfTI header", "DECODE"),
        (damaged(108, "<f", float("nan")), "damaged NIfTI header", "DECODE"),
        (damaged(108, "<f", 1e30), "cannot begin|damaged", "DECODE"),
        (damaged(108, "<f", 16.0), "cannot begin at byte 16", "DECODE"),
        (damaged(344, "4s", b"ni1\0"), "another file", "DECODE"),
        (damaged(344, "4s", b"\0\0\0\0"), "not a NIfTI file", "DECODE"),
        (gzip.compress(bytes(nifti()))[:-40], "truncated", "TRUNCATED"),
        (gzip.compress(bytes(nifti()))[:-3], "truncated", "TRUNCATED"),
        (gzip.compress(b"", mtime=0)[:-3], "truncated|neither", "TRUNCATED"),
    ],
)
def test_bad_bytes_are_one_line(raw, match, code, tmp_path):
    assert code_of(raw, match) == code
    path = tmp_path / "x.nii.gz"
    path.write_bytes(raw)
    code_of(path, r"x\.nii\.gz: ")


def test_a_gzip_of_countless_parts_ends():
    empty = gzip.compress(b"")
    code = code_of(gzip.compress(bytes(nifti())[:352]) + empty * 100_001, "more than 100000 parts")
    assert code == "TOO_LARGE"
    padded = gzip.compress(bytes(nifti())) + empty * 3 + bytes(512)
    assert read_volume(padded).shape == VOXELS.shape


def test_a_flipped_bit_is_found():
    packed = bytearray(gzip.compress(bytes(nifti()), compresslevel=0))
    packed[-100] ^= 4  # a voxel, and no error of the format
    code_of(bytes(packed), "damaged gzip")


def test_a_bomb_never_inflates(monkeypatch):
    header = bytes(nifti())[:352]
    huge = bytearray(header)
    struct.pack_into("<4h", huge, 40, 3, 32_000, 32_000, 32_000)
    zeros = gzip.compress(bytes(4 << 20))
    assert code_of(gzip.compress(bytes(huge)) + zeros * 50, "limit is") == "TOO_LARGE"
    small = gzip.compress(header) + zeros * 50  # the header tells of 420 bytes
    inflated = []
    make = zlib.decompressobj

    class Counting:
        def __init__(self, wbits):
            self._member = make(wbits)

        def __getattr__(self, name):
            return getattr(self._member, name)

        def decompress(self, data, size):
            part = self._member.decompress(data, size)
            inflated.append(len(part))
            return part

    monkeypatch.setattr("zoo.modalities.volume.inflate._fastest", lambda: zlib)
    monkeypatch.setattr(zlib, "decompressobj", Counting)
    code_of(small, "more than the 420 bytes")
    assert sum(inflated) < 2000


def test_no_such_file(tmp_path):
    assert code_of(tmp_path / "x.nii", "no such file") == "IO"
    assert code_of(tmp_path, "0 DICOM series") == "DECODE"


def test_arrays_and_modality():
    volume = open_volume({"volume": VOXELS, "spacing": (1.0, 2.0, 3.0), "modality": "CT"})
    assert (volume.spacing, volume.modality) == ((1, 2, 3), "ct")
    several = open_volume(torch.from_numpy(np.stack([VOXELS, VOXELS])))
    assert several.read().shape == (2, 7, 6, 5)
    assert know_modality(several, "x") == "ct"  # voxels below -500
    above = open_volume(VOXELS.clip(0))
    with pytest.raises(DataError, match="CT or MRI"):
        know_modality(above, "x")
    with pytest.raises(DataError, match="CT or MRI"):
        know_modality(above, "x", expected="ct")
    assert know_modality(above, "x", expected="mr") == "mr"
    for wrong in (VOXELS[0], VOXELS[:0], VOXELS.astype(complex)):
        with pytest.raises(DataError, match="no volume"):
            open_volume(wrong)


@settings(deadline=None, max_examples=150, database=None)
@given(st.data())
def test_any_bytes_give_a_volume_or_one_line(data):
    packed = data.draw(st.booleans())
    raw = nifti() if not packed else bytearray(gzip.compress(bytes(nifti()), mtime=0))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(raw), 360) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    with warnings.catch_warnings(), suppress(DataError):
        warnings.simplefilter("ignore")
        read_volume(bytes(raw))
