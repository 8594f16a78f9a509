import importlib
import io
import sys
import types
import warnings

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo.modalities.audio import decode
from zoo.modalities.audio.decode import Recording
from zoo.modalities.audio.resample import mono, resample
from zoo.modalities.members import Audio

from zoo.errors import DataError, UsageError

TIME = np.arange(32_000) / 32_000
TONE = (0.4 * np.sin(2 * np.pi * 440 * TIME * (1 + TIME))).astype(np.float32)
TONE += np.random.default_rng(0).normal(0, 0.01, len(TONE)).astype(np.float32)
STARTS = (12_345, 0, 12_000, 31_000, 29_999, 500, 4500, 22_222, 7)  # to and fro, and straight on
LOSSLESS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "aiff": ("AIFF", "PCM_24")}
LOSSY = {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}


def encoded(kind, samples=TONE, rate=None):
    form, subtype = (LOSSLESS | LOSSY)[kind]
    buffer = io.BytesIO()
    rate = rate or (48_000 if kind == "opus" else 32_000)
    soundfile.write(buffer, samples.T, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def code_of(raw, **options):
    with pytest.raises(DataError) as caught:
        Recording(raw, **options).read()
    assert "\n" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
def test_stretches_are_those_of_the_whole(kind, tmp_path):
    data = encoded(kind)
    whole = Recording(data).read()
    assert whole.shape == (1, len(TONE))
    assert whole.dtype == np.float32
    assert np.abs(whole[0] - TONE).max() < (1e-4 if kind in LOSSLESS else 0.3)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data)
    for raw in (path, str(path), data, memoryview(data)):
        with Recording(raw) as recording:
            assert (recording.frames, recording.channels) == (len(TONE), 1)
            for start in (12_345, 0, 12_000, 31_000):  # backwards too
                stretch = recording.read(start, 4000)
                assert np.abs(stretch - whole[:, start : start + 4000]).max() < 1e-6


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 6])
def test_every_depth_and_number_of_channels(subtype, channels):
    samples = np.stack([TONE * (1 + i) / 6 for i in range(channels)])
    buffer = io.BytesIO()
    soundfile.write(buffer, samples.T, 192_000, format="WAV", subtype=subtype)
    recording = Recording(buffer.getvalue())
    assert (recording.channels, recording.rate) == (channels, 192_000)
    assert np.abs(recording.read() - samples).max() < (1e-2 if subtype == "PCM_U8" else 1e-4)
    one = mono(recording.read(), 192_000, 32_000)
    assert one.shape == (len(TONE) // 6 + 1,)
    got, want = one.std().item(), samples.mean(axis=0).std()
    assert got == pytest.approx(want, rel=0.05)


def test_sound_in_memory():
    whole = (TONE * 32_767).astype(np.int16)
    for raw in (whole, whole.astype(np.float64) / 32_768, torch.from_numpy(whole)):
        assert np.abs(Recording(raw, rate=32_000).read()[0] - TONE).max() < 1e-4
    assert Recording(Audio(TONE[None], 8000)).seconds == 4.0
    assert code_of(TONE[None, None], rate=8000) == "DECODE"
    assert code_of(TONE.astype(np.int64), rate=8000) == "DECODE"
    assert code_of(TONE) == "DECODE"  # at no rate


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"", "EMPTY_PART", id="empty"),
        pytest.param(b"not sound at all, only text", "DECODE", id="text"),
        pytest.param(b"<html><body>error 404</body></html>", "DECODE", id="page"),
        pytest.param(np.random.default_rng(0).bytes(4000), "DECODE", id="noise"),
        pytest.param(encoded("wav", TONE[:0]), "EMPTY_PART", id="wav-header"),
        pytest.param(encoded("flac", TONE[:0]), "EMPTY_PART", id="flac-header"),
        pytest.param(encoded("flac")[:60], "DECODE", id="flac-cut-early"),
        pytest.param(encoded("flac")[:20_000], "DECODE", id="flac-cut"),
        pytest.param(encoded("ogg")[:60], "DECODE", id="ogg-cut"),
        pytest.param(np.array([0.1, np.nan]), "NONFINITE", id="nan"),
        pytest.param(np.array([0.1, -np.inf]), "NONFINITE", id="infinity"),
        pytest.param(np.array([0.1, -1e30]), "NONFINITE", id="huge"),
    ],
)
def test_bad_input_is_one_line(raw, code, tmp_path):
    assert code_of(raw, rate=8000) == code
    if isinstance(raw, bytes):
        path = tmp_path / "x.wav"  # whatever it is, its name says sound
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"x\.wav: "):
            Recording(path).read()


@pytest.mark.parametrize("kind", ["wav", "aiff", "ogg", "opus", "mp3"])
def test_a_cut_file_is_used_and_told(kind):
    data = encoded(kind, np.tile(TONE, 5))
    with pytest.warns(UserWarning, match=r"^kiwi: (shorter than its header|only \d+ of)"):
        short = Recording(data[: len(data) // 2], name="kiwi").read()
    assert 0 < short.shape[1] < 5 * len(TONE)


def test_a_hole_in_the_middle_is_told():
    data = bytearray(encoded("ogg", np.tile(TONE, 5)))
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    recording = Recording(data)
    with pytest.warns(UserWarning, match=r"only \d+ of 160000 samples"):
        got = recording.read()
    assert got.shape[1] < recording.frames
    recording.read(recording.frames - 1, 1)  # and once only


def test_what_is_no_file(tmp_path):
    assert code_of(tmp_path) == "IO"
    with pytest.raises(DataError, match=r"is a folder; .*--window"):
        Recording(tmp_path)
    assert code_of(tmp_path / "absent.wav") == "IO"


def test_limits(monkeypatch):
    hours = Recording(Audio(np.broadcast_to(np.float32(0), (1, 3601 * 1000)), 1000))
    with pytest.raises(DataError, match="3601 seconds, the limit is 3600"):
        hours.read()
    assert hours.read(3_600_000, 500).shape == (1, 500)
    monkeypatch.setattr(decode, "MAX_BYTES", 1000)
    assert code_of(encoded("wav")) == "TOO_LARGE"
    assert code_of(TONE, rate=8000) == "TOO_LARGE"


def test_other_formats_go_to_ffmpeg(monkeypatch):
    data = b"\0\0\0\x20ftypM4A " + bytes(20)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert code_of(data) == "DECODE"
    with pytest.raises(DataError, match="torchcodec"):
        Recording(data)

    class AudioDecoder:
        def __init__(self, source):
            assert source == data
            self.metadata = types.SimpleNamespace(
                duration_seconds_from_header=1.0, sample_rate=32_000, num_channels=1
            )

        def get_samples_played_in_range(self, start, stop):
            return types.SimpleNamespace(data=torch.from_numpy(TONE)[None], sample_rate=32_000)

    fake = types.SimpleNamespace(AudioDecoder=AudioDecoder)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    assert np.array_equal(Recording(data).read(100, 50)[0], TONE[100:150])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError, match=r"zoo\[audio\]"):
        Recording(encoded("wav"))


@settings(deadline=None, max_examples=60, database=None)
@given(data=st.data())
def test_damaged_bytes_are_an_error_or_sound(data):
    kind = data.draw(st.sampled_from(["wav", "flac", "aiff", "ogg"]))
    content = bytearray(encoded(kind, TONE[:4000]))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert np.isfinite(Recording(content).read()).all()
        except DataError:
            return  # any other exception fails


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_099, 44_100, 48_000, 192_000])
def test_a_tone_stays_where_it_is(rate):
    seconds = 0.5
    time = torch.arange(round(rate * seconds)) / rate
    got = resample(torch.sin(2 * torch.pi * 1000 * time), rate, 32_000)
    assert abs(len(got) - 16_000) <= 1
    want = torch.sin(2 * torch.pi * 1000 * torch.arange(len(got)) / 32_000)
    assert (got - want)[200:-200].abs().max() < 5e-3


def test_resampling_is_torchaudios():
    functional = importlib.import_module("torchaudio.functional")
    want = functional.resample(torch.from_numpy(TONE), 44_100, 32_000)
    assert torch.allclose(resample(torch.from_numpy(TONE), 44_100, 32_000), want, atol=1e-5)
    assert resample(want, 7, 7) is want
