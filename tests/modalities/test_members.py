import gzip
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import torch
from golden_checks.decode import decode_events
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from zoo.modalities import bounds, images
from zoo.modalities.bounds import MAX_BYTES, MAX_TEXT
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.images import decode_image
from zoo.modalities.members import decode_member, find_member
from zoo.modalities.vision.codec import VisionCodec

from zoo.errors import DataError, UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)
ARRAY = RNG.normal(size=(3, 4)).astype(np.float32)
NAN = np.array([1.0, np.nan])


class Canary:
    def __reduce__(self):
        return exec, ("import os; os.environ['ZOO_CANARY'] = 'ran'",)


def image(pixels=PIXELS, form="png", **options):
    buffer = io.BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def pth(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def wav(samples, rate=16_000, code=3, extensible=False):
    """Samples (T, C) as they lie in the file."""
    width = samples.itemsize * (3 if samples.ndim == 3 else 1)  # (T, C, 3): 24 bits
    block, bits = width * samples.shape[1], 8 * width
    tag = 0xFFFE if extensible else code
    head = struct.pack("<HHIIHH", tag, samples.shape[1], rate, rate * block, block, bits)
    if extensible:
        head += struct.pack("<HHIH14x", 22, bits, 0, code)
    body = b"LIST" + struct.pack("<I", 3) + b"odd\0"
    body += b"fmt " + struct.pack("<I", len(head)) + head
    body += b"data" + struct.pack("<I", samples.nbytes) + samples.tobytes()
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def png_of(width, height, *, whole=True):
    """A PNG of few bytes whose header promises many pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x" * 100)
    return start + chunk(b"IEND", b"") if whole else start


def zeros_gz(size):
    packer = zlib.compressobj(1, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def code_of(extension, data):
    with pytest.raises(DataError) as caught:
        decode_member(extension, data)
    assert "\n" not in str(caught.value)
    return caught.value.code


CODES = {"DECODE", "EMPTY_PART", "NONFINITE", "TOO_LARGE", "UNSAFE_FORMAT"}
VALID = {
    "png": image(),
    "jpg": image(form="jpeg"),
    "webp": image(form="webp"),
    "txt": "naïve".encode(),
    "json": b'{"a": [1, {"b": null}]}',
    "cls": b"17\n",
    "npy": npy(ARRAY),
    "npz": npz(a=ARRAY, b=np.arange(3)),
    "wav": wav(ARRAY),
    "safetensors": save({"a": torch.ones(3)}),
    "pth": pth({"a": torch.ones(3)}),
    "json.gz": gzip.compress(b"[1, 2]", mtime=0),
    "npy.gz": gzip.compress(npy(ARRAY), mtime=0),
    "mp4": b"anything",
}


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_values(kind):
    got = {extension: decode_member(extension, kind(data)) for extension, data in VALID.items()}
    assert np.array_equal(got["png"].permute(1, 2, 0), PIXELS)
    assert got["jpg"].shape == got["webp"].shape == (3, 24, 30)
    assert (got["txt"], got["cls"], got["mp4"]) == ("naïve", 17, b"anything")
    assert (got["json"], got["json.gz"]) == ({"a": [1, {"b": None}]}, [1, 2])
    assert np.array_equal(got["npy"], ARRAY)
    assert np.array_equal(got["npy.gz"], ARRAY)
    assert np.array_equal(got["npz"]["a"], ARRAY)
    assert got["npz"].keys() == {"a", "b"}
    assert np.array_equal(got["wav"].samples, ARRAY.T)
    assert got["wav"].rate == 16_000
    assert torch.equal(got["safetensors"]["a"], torch.ones(3))
    assert torch.equal(got["pth"]["a"], torch.ones(3))
    assert not decode_events([("good", {name: kind(data) for name, data in VALID.items()})])


def test_values_share_no_memory_with_the_shard():
    for extension in ("npy", "wav", "mp4", "safetensors"):
        buffer = bytearray(VALID[extension])
        value = decode_member(extension, memoryview(buffer))
        before = pickle.dumps(value)
        buffer[:] = bytes(len(buffer))
        assert pickle.dumps(value) == before, extension


@pytest.mark.parametrize(
    ("extension", "data", "code"),
    [
        *((kind, pickle.dumps(Canary()), "UNSAFE_FORMAT") for kind in ("pyd", "pkl", "pickle")),
        ("npy", npy(np.array([Canary()])), "UNSAFE_FORMAT"),
        ("npz", npz(a=np.array([Canary()])), "UNSAFE_FORMAT"),
        ("pth", pth(Canary()), "UNSAFE_FORMAT"),
        ("pt", pth({"a": [torch.ones(1)]}), "UNSAFE_FORMAT"),
        ("pth", pickle.dumps(Canary()), "UNSAFE_FORMAT"),
        ("pth", pth(torch.ones(1), _use_new_zipfile_serialization=False), "UNSAFE_FORMAT"),
        *((kind, b"", "EMPTY_PART") for kind in VALID if kind not in ("txt", "mp4")),
        ("wav", wav(ARRAY[:0]), "EMPTY_PART"),
        ("wav", wav(np.array([[np.inf]])), "NONFINITE"),
        ("npy", npy(NAN), "NONFINITE"),
        ("npz", npz(a=NAN), "NONFINITE"),
        ("safetensors", save({"a": torch.from_numpy(NAN)}), "NONFINITE"),
        ("pth", pth(torch.from_numpy(NAN)), "NONFINITE"),
        ("png", png_of(12_000, 12_000), "TOO_LARGE"),  # where Pillow only warns
        ("png", png_of(30_000, 30_000), "TOO_LARGE"),
        ("jpg", png_of(12_000, 12_000, whole=False), "DECODE"),
        ("json", b"[" * 64 + b"{}" + b"]" * 64, "TOO_LARGE"),
        ("json", b"[" * 100_000, "TOO_LARGE"),
        ("txt", bytes(MAX_TEXT + 1), "TOO_LARGE"),
        ("npy", npy(ARRAY).replace(b"(3, 4)", b"(3, 4" + b"0" * 12 + b")"), "TOO_LARGE"),
        ("pth", pth(torch.zeros(1).expand(MAX_BYTES)), "TOO_LARGE"),
        ("wav", wav(np.ones((3601, 1), np.float32), rate=1), "TOO_LARGE"),
        ("jpg", image(form="jpeg")[:300], "DECODE"),
        ("png", image()[:-300], "DECODE"),
        ("webp", image(form="webp")[:-300], "DECODE"),
        ("png", b"%!PS-Adobe-3.0 EPSF-3.0", "DECODE"),
        ("txt", b"\xff", "DECODE"),
        ("json", b'{"id": 6,', "DECODE"),
        ("cls", b"not-int", "DECODE"),
        ("npy", npy(ARRAY)[:-1], "DECODE"),
        ("wav", wav(ARRAY, code=7), "DECODE"),
        ("wav", b"RIFF\0\0\0\0WAVE", "DECODE"),
        ("txt.gz", gzip.compress(b"abc", mtime=0)[:-3], "DECODE"),
    ],
)
def test_codes(extension, data, code, monkeypatch):
    monkeypatch.delenv("ZOO_CANARY", raising=False)
    assert code_of(extension, data) == code
    assert decode_events([("k", {"mp4": b"", extension: memoryview(data)})]) == [("k", code)]
    assert "ZOO_CANARY" not in os.environ


def test_bombs_are_found_before_they_take_memory():
    lying = bytearray(npz(a=np.zeros(4 << 20)))  # 32 MiB that its directory calls 100 bytes
    at = lying.find(b"PK\x01\x02")
    lying[at + 24 : at + 28] = struct.pack("<I", 100)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(bounds.MAX_ENTRIES + 1):
            archive.writestr(f"{number}", b"")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", bytes(64 << 20))
    bombs = [
        ("json.gz", zeros_gz(MAX_TEXT + (16 << 20)), "TOO_LARGE"),
        ("npz", bytes(lying), "DECODE"),
        ("npz", many.getvalue(), "TOO_LARGE"),
        ("npz", packed.getvalue(), "DECODE"),
    ]
    for extension, data, code in bombs:
        tracemalloc.start()
        try:
            assert code_of(extension, data) == code
            assert tracemalloc.get_traced_memory()[1] < 2 * MAX_TEXT
        finally:
            tracemalloc.stop()


def test_gzip_is_inflated_once():
    twice = gzip.compress(gzip.compress(b"x" * 100), mtime=0)
    assert gzip.decompress(decode_member("txt.gz", twice)) == b"x" * 100
    assert decode_member("TXT.GZ", gzip.compress(b"a", mtime=0) + gzip.compress(b"b")) == "ab"


def test_names_of_the_data_sets_own_stay_bytes():
    assert decode_member("seg.png", b"\x89PNGfake") == b"\x89PNGfake"
    assert decode_member("meta.pkl", b"x") == b"x"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}]
)
def test_jpeg_is_the_same_with_and_without_torchvision(mode, options, monkeypatch):
    assert images._jpeg_decoder() is not None
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: not applied
    data = image(Image.fromarray(PIXELS[:23]).convert(mode), "jpeg", exif=exif, **options)
    got = decode_image(memoryview(data))
    monkeypatch.setattr(images, "_jpeg_decoder", lambda: None)
    assert torch.equal(got, decode_image(data))
    assert got.shape == (1 if mode == "L" else 3, 23, 30)


def test_content_decides_and_odd_pngs_become_rgb():
    assert np.array_equal(decode_member("jpg", image()).permute(1, 2, 0), PIXELS)
    palette = Image.fromarray(PIXELS).quantize(8)
    got = decode_image(image(palette, transparency=b"\0\x80"))  # Pillow would warn
    assert np.array_equal(got.permute(1, 2, 0), palette.convert("RGB"))
    rgba = np.dstack([PIXELS, PIXELS[..., :1]])
    assert np.array_equal(decode_image(image(rgba)).permute(1, 2, 0), PIXELS)


def test_whole_number_wavs():
    steps = np.array([[-128], [0], [127]])
    want = steps / np.float32(128)
    u8 = (steps + 128).astype(np.uint8)
    i16 = (steps << 8).astype("<i2")
    i32 = (steps << 24).astype("<i4")
    i24 = np.ascontiguousarray(i32.view(np.uint8).reshape(3, 1, 4)[..., 1:])
    for samples in (u8, i16, i24, i32):
        for extensible in (False, True):
            got = decode_member("wav", wav(samples, code=1, extensible=extensible))
            assert np.array_equal(got.samples, want.T)
    both = decode_member("wav", wav(ARRAY.astype("<f8")))
    assert both.samples.dtype == np.float32
    assert np.array_equal(both.samples, ARRAY.T)


def test_a_cut_wav_is_shorter_and_says_so():
    with pytest.warns(UserWarning, match="shorter than its header says"):
        got = decode_member("wav", wav(ARRAY)[:-20])
    assert np.array_equal(got.samples, ARRAY[:1].T)


def test_flac(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError, match=r"pip install 'zoo\[audio\]'"):
        decode_member("flac", b"fLaC")


def test_flac_with_soundfile():
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, ARRAY / 8, 8000, format="FLAC", subtype="PCM_24")
    got = decode_member("flac", buffer.getvalue())
    assert got.rate == 8000
    np.testing.assert_allclose(got.samples, ARRAY.T / 8, atol=1e-6)
    assert code_of("flac", buffer.getvalue()[:-9]) == "DECODE"


def test_codecs_name_the_damage():
    for codec, data, codes in (
        (VisionCodec(), {}, "MISSING_PART"),
        (VisionCodec(), {"jpg": b""}, "EMPTY_PART"),
        (VisionCodec(), {"png": png_of(12_000, 12_000)}, "TOO_LARGE"),
        (CodeCodec(), {"png": b""}, "MISSING_PART"),
        (CodeCodec(), {"py": b"x" * (5 << 20)}, "TOO_LARGE"),
        (CodeCodec(), {"txt": b"x", "json": b"{"}, "DECODE"),
    ):
        with pytest.raises(DataError) as caught:
            codec.decode({name: memoryview(part) for name, part in data.items()})
        assert caught.value.code == codes
    assert find_member({"b": b"1", "a": b"2"}, ("a", "b"), what="x") == ("a", b"2")


def test_measures():
    grey = np.full((4, 6), 51, np.uint8)
    codec = VisionCodec()
    sample = codec.decode(codec.encode({"image": grey}))
    assert codec.measure(sample) == pytest.approx({"height": 4, "width": 6, "mean": 0.2})
    for text, lines in (("", 0), ("é", 1), ("a\nb\n", 2), ("a\n\nb", 3)):
        got = CodeCodec().measure({"text": text})
        assert got == {"bytes": len(text.encode()), "lines": lines}


EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6)
KEPT = st.one_of(st.just(1.0), st.floats(0, 1))


@settings(deadline=None, max_examples=1000, database=None)
@given(st.sampled_from(sorted(VALID)), EDITS, KEPT, st.binary(max_size=8))
def test_mutated_bytes_decode_or_say_why(extension, edits, kept, tail):
    data = bytearray(VALID[extension])
    for place, value in edits:
        data[int(place * len(data))] = value
    data = bytes(data[: round(kept * len(data))]) + tail
    tracemalloc.start()
    try:
        events = decode_events([("k", {extension: memoryview(data)})])
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert {code for _, code in events} <= CODES
    assert peak < 64 << 20
