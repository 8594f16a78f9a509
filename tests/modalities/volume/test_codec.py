import gzip
import json
import struct
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.read import open_volume
from zoo.modalities.volume.volume import LABELS, Sequence, Volume

from zoo.cli.shards import build
from zoo.data.shards import ShardSet
from zoo.errors import DataError

CODEC = VolumeCodec()
RNG = np.random.default_rng(0)
HU = RNG.integers(-1024, 1500, (70, 66, 40), dtype=np.int16)
LPS = np.diag([-0.8, -0.8, 2.5, 1.0])
BOX = (slice(3, 50), slice(30, 66), slice(7, 39))


def nifti(voxels=HU, affine=LPS):
    return gzip.compress(nibabel.Nifti1Image(voxels, affine).to_bytes(), mtime=0)


def test_round_trip_is_exact_oriented_and_repeatable():
    raw = {"volume": HU, "affine": LPS, "label": 3, "facts": {"licence": "CC0", "source": "us"}}
    members = CODEC.encode(raw)
    assert members == CODEC.encode(raw)
    assert members.keys() == {"ct.b2nd", "json", "cls"}
    sample = CODEC.decode({name: memoryview(data) for name, data in members.items()})
    volume, facts = sample["volume"], sample["facts"]
    assert np.array_equal(volume.read()[0], HU[::-1, ::-1])
    assert np.array_equal(volume.read(["ct"], BOX)[0], HU[::-1, ::-1][BOX])
    assert (sample["label"], volume.modality, facts["licence"]) == (3, "ct", "CC0")
    assert (facts["spacing"], facts["orientation"]) == ([0.8, 0.8, 2.5], "RAS")
    assert CODEC.measure(sample)["max"] == HU.max()
    again = CODEC.encode(sample)
    assert again == members


def test_several_sequences_keep_their_own_scale():
    t1 = RNG.normal(300, 90, HU.shape).clip(0).astype(np.float32)
    labels = (t1 > 300).astype(np.int64) * 2
    files = {"t1": t1, "flair": t1 / 1e6, LABELS: labels.astype(np.uint8)}
    members = {f"{name}.nii.gz": nifti(voxels) for name, voxels in files.items()}
    stored = CODEC.store(members)
    assert stored.keys() == {"t1.b2nd", "flair.b2nd", "seg.b2nd", "json"}
    assert CODEC.store(stored) == stored
    volume = CODEC.decode(stored)["volume"]
    assert (volume.modality, volume.read().shape[0]) == ("mr", 2)
    assert np.array_equal(volume.read([LABELS])[0], labels[::-1, ::-1])
    for name in ("t1", "flair"):
        step = np.ptp(files[name]) / 65_535
        assert np.abs(volume.read([name])[0] - files[name][::-1, ::-1]).max() < 0.51 * step
    other = {"t1.nii.gz": nifti(t1), "t2.nii.gz": nifti(t1, np.eye(4))}
    with pytest.raises(DataError, match=r"several grids .*affines differ, t2 is the odd one"):
        CODEC.decode(other)
    other = {"ct.nii.gz": nifti(t1), f"{LABELS}.nii.gz": nifti(t1[1:])}
    with pytest.raises(DataError, match=r"(\d+ x ){2}\d+ and .* seg is the odd one.* resample it"):
        CODEC.decode(other)


def test_planes_tell_the_foreground():
    volume = CODEC.decode(CODEC.encode({"volume": HU, "affine": np.eye(4)}))["volume"]
    direct = open_volume(HU)
    for threshold in (-2000.0, 1400.0, 1499.0):
        for got, want in zip(
            volume.sequences["ct"].above(threshold),
            direct.sequences["volume"].above(threshold),
            strict=True,
        ):
            assert np.array_equal(got, want)


def test_modality_must_be_known():
    assert CODEC.decode({"nii.gz": nifti()})["volume"].modality == ""
    assert "ct.b2nd" in CODEC.store({"nii.gz": nifti()})
    dark = nifti(HU.clip(0))
    with pytest.raises(DataError, match="CT or MRI"):
        CODEC.store({"nii.gz": dark})
    said = {"nii.gz": dark, "json": b'{"modality": "mr", "licence": "CC-BY-4.0"}'}
    stored = CODEC.store(said)
    assert stored.keys() == {"mr.b2nd", "json"}
    assert json.loads(stored["json"])["licence"] == "CC-BY-4.0"
    assert "ct.b2nd" in CODEC.store({"ct.nii.gz": dark})


def test_resampled_once():
    sample = {"volume": HU, "affine": LPS}
    volume = CODEC.decode(VolumeCodec((1.5, 1.5, 1.5)).encode(sample))["volume"]
    assert volume.spacing == (1.5, 1.5, 1.5)
    assert volume.shape == (38, 36, 66)


GOOD = CODEC.encode({"volume": HU, "affine": LPS})


def changed(**facts):
    return GOOD | {"json": json.dumps(json.loads(GOOD["json"]) | facts).encode()}


def reshaped(*shape):
    """A frame that says it has another shape."""
    frame = bytearray(GOOD["ct.b2nd"])
    at = frame.index(b"\x93\xd3" + struct.pack(">q", 70)) + 1
    for i, size in enumerate(shape):
        struct.pack_into(">q", frame, at + 1 + 9 * i, size)
    return GOOD | {"ct.b2nd": bytes(frame)}


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"txt": b"none"}, "MISSING_PART"),
        ({"ct.b2nd": GOOD["ct.b2nd"]}, "DECODE"),  # nothing says where it lies
        (GOOD | {"ct.b2nd": b""}, "DECODE"),
        (GOOD | {"ct.b2nd": b"text"}, "DECODE"),
        (GOOD | {"ct.b2nd": GOOD["ct.b2nd"][:-5]}, "DECODE"),
        (GOOD | {"ct.b2nd": GOOD["ct.b2nd"] + b"more"}, "DECODE"),
        (GOOD | {"ct.b2nd": GOOD["ct.b2nd"][:40] + bytes(len(GOOD["ct.b2nd"]) - 40)}, "DECODE"),
        (GOOD | {"json": b"[1]"}, "DECODE"),
        (changed(affine=np.zeros((4, 4)).tolist()), "DECODE"),
        (changed(affine=[[1]]), "DECODE"),
        (changed(sequences={}), "DECODE"),
        (changed(sequences={"ct": {"slope": 0, "intercept": 0, "maxima": ""}}), "DECODE"),
        (
            changed(sequences={"ct": {"slope": 1, "intercept": 0, "maxima": "AAA="}}),
            "DECODE",
        ),
        (reshaped(32_000, 32_000, 32_000), None),
        (reshaped(-1, 66, 40), None),
    ],
)
def test_bad_members_are_one_line(members, code):
    with pytest.raises(DataError) as caught:
        CODEC.measure(CODEC.decode(members))
    assert "\n" not in str(caught.value)
    assert code is None or caught.value.code == code


def test_chunks_too_large_for_crops_are_refused(monkeypatch):
    monkeypatch.setattr("zoo.modalities.volume.codec._LARGEST_CHUNK", 1000)
    with pytest.raises(DataError, match="chunks of") as caught:
        CODEC.decode(GOOD)
    assert caught.value.code == "TOO_LARGE"


def test_changed_voxels_are_found():
    frame = bytearray(GOOD["ct.b2nd"])
    frame[len(frame) // 2] ^= 1
    with pytest.raises(DataError, match=r"ct\.b2nd"):
        CODEC.measure(CODEC.decode(GOOD | {"ct.b2nd": bytes(frame)}))
    facts = json.loads(GOOD["json"])
    facts["sequences"]["ct"]["sha256"] = "0" * 64
    with pytest.raises(DataError, match="differ from their sha256") as caught:
        CODEC.measure(CODEC.decode(GOOD | {"json": json.dumps(facts).encode()}))
    assert caught.value.code == "CHECKSUM"


def test_any_damage_is_an_error_or_other_voxels():
    rng, seen = np.random.default_rng(0), set()
    good = CODEC.encode({"volume": HU[:40, :36, :33]})
    size = len(good["ct.b2nd"])
    for i in range(240):
        frame = bytearray(good["ct.b2nd"])
        low, high = ((0, 200), (size - 120, size), (180, 600), (0, size))[i % 4]
        for at in rng.integers(low, high, 1 + i % 5):
            frame[at] = rng.integers(256)
        damaged = good | {"ct.b2nd": bytes(frame)}
        seen.add(_outcome(damaged))
    assert seen == {"voxels", "DataError"}


def _outcome(members):
    try:
        CODEC.decode(members)["volume"].read()
    except DataError:
        return "DataError"
    return "voxels"


def test_importing_is_light_and_needs_no_network():
    code = """
import socket, sys, numpy as np
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.preprocess import VolumePreprocess
assert not {"blosc2", "monai", "nibabel", "nrrd", "pydicom"} & sys.modules.keys()
socket.socket.connect = socket.getaddrinfo = None  # blosc2 imports an HTTP client
codec = VolumeCodec()
sample = codec.decode(codec.encode({"volume": np.zeros((9, 8, 7), np.int16), "modality": "ct"}))
assert sample["volume"].read().shape == (1, 9, 8, 7)
assert "monai" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_volumes_build_into_shards(tmp_path):
    from click.testing import CliRunner

    source = tmp_path / "in"
    source.mkdir()
    for i in range(2):
        (source / f"scan{i}.nii.gz").write_bytes(nifti(HU + i))
        (source / f"scan{i}.json").write_text('{"licence": "CC0"}')
    (source / "broken.nii.gz").write_bytes(nifti()[:-900])
    out = tmp_path / "out"
    words = [str(source), str(out), "--modality", "volume", "--skip-bad", "--workers", "0"]
    words += ["--spacing", "1.6", "1.6", "2.5"]
    done = CliRunner().invoke(build.command, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["samples"], manifest["skipped"]) == (2, 1)
    assert manifest["measured"]["x"]["max"] == 36
    shards = ShardSet(str(out))
    samples = [CODEC.decode(shards.read(index)) for index in range(2)]
    for i, sample in enumerate(samples):
        volume = sample["volume"]
        assert volume.spacing == (1.6, 1.6, 2.5)
        assert np.array_equal(volume.read()[0, :35, :33, 0], (HU + i)[::-2, ::-2, 0])
        assert (volume.modality, sample["facts"]["licence"]) == ("ct", "CC0")


def test_a_volume_in_memory_is_encoded_as_it_is():
    sequences = {"t1": Sequence(HU), "t2": Sequence(HU)}
    volume = Volume(sequences=sequences, affine=np.eye(4), modality="mr")
    members = CODEC.encode({"volume": volume})
    assert members["t1.b2nd"] == members["t2.b2nd"]
