import io

import numpy as np
import pytest
from click.testing import CliRunner
from zoo.modalities.audio.codec import AudioCodec
from zoo.modalities.audio.decode import Recording
from zoo.modalities.members import Audio, decode_member

from zoo.cli.shards import build
from zoo.data.shards import ShardSet
from zoo.errors import DataError

soundfile = pytest.importorskip("soundfile")

CODEC = AudioCodec()
NOISE = np.random.default_rng(0).normal(0, 0.1, (2, 8000)).astype(np.float32)


def flac(samples, rate=16_000):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


@pytest.mark.parametrize("audio", [NOISE, NOISE[0], (NOISE * 32_768).astype(np.int16)])
def test_encode_is_lossless_and_repeatable(audio):
    raw = {"audio": audio, "rate": 22_050, "label": 3, "facts": {"b": 1, "a": "wren"}}
    members = CODEC.encode(raw)
    assert members == CODEC.encode(raw)
    assert members.keys() == {"wav", "cls", "json"}
    sample = CODEC.decode(members)
    assert (sample["label"], sample["facts"]) == (3, {"a": "wren", "b": 1})
    scale = 32_768 if audio.dtype == np.int16 else 1
    got = sample["audio"].read()
    assert np.array_equal(got * scale, np.atleast_2d(audio))
    assert sample["audio"].rate == 22_050
    assert np.array_equal(decode_member("wav", members["wav"]).samples, got)


def test_files_stay_as_they_are():
    sample = CODEC.decode({"flac": memoryview(flac(NOISE))})
    assert sample.keys() == {"audio"}
    assert isinstance(sample["audio"], Recording)
    facts = CODEC.measure(sample)
    assert facts == {
        **{"seconds": 0.5, "rate": 16_000, "channels": 2},
        "rms": pytest.approx(np.sqrt((NOISE**2).mean()), rel=1e-3),
    }
    assert CODEC.encode({"audio": Audio(NOISE, 8000)}).keys() == {"wav"}


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"txt": b"no sound"}, "MISSING_PART"),
        ({"wav": b""}, "EMPTY_PART"),
        ({"mp3": b"text that is called mp3"}, "DECODE"),
        ({"wav": flac(NOISE), "cls": b"wren"}, "DECODE"),
        ({"flac": flac(np.zeros((1, 3_700_000), np.float32), 1000)}, "TOO_LARGE"),
    ],
)
def test_bad_members(members, code):
    with pytest.raises(DataError) as caught:
        CODEC.decode(members)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_damage_behind_the_header_is_found_when_measured():
    data = bytearray(flac(NOISE))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    sample = CODEC.decode({"flac": data})
    with pytest.raises(DataError, match="damaged"):
        CODEC.measure(sample)


def test_a_folder_of_recordings_becomes_shards(tmp_path):
    for species in ("robin", "wren"):
        (tmp_path / "in" / species).mkdir(parents=True)
        (tmp_path / "in" / species / "1.flac").write_bytes(flac(NOISE))
    (tmp_path / "in" / "wren" / "2.wav").write_text("no sound")
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--label-from-folder", "--quiet"]
    words += ["--modality", "audio", "--skip-bad", "--workers", "0"]
    done = CliRunner().invoke(build.command, words, catch_exceptions=False)
    assert "2 samples" in done.output
    assert "bad samples: 1" in done.output
    shards = ShardSet(tmp_path / "out")
    samples = [CODEC.decode(shards.read(i)) for i in range(2)]
    assert [sample["label"] for sample in samples] == [0, 1]
    assert samples[0]["audio"].read().shape == (2, 8000)
