import csv
import io
import tracemalloc

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from zoo.modalities.audio.augment import AugmentConfig
from zoo.modalities.audio.decode import Recording
from zoo.modalities.audio.features import LogMelConfig
from zoo.modalities.audio.preprocess import AudioPreprocess, AudioPreprocessConfig
from zoo.modalities.audio.windows import AudioEncoder, cut
from zoo.modalities.contracts import Features
from zoo.modalities.members import Audio

import zoo
from zoo.cli import embed
from zoo.errors import DataError, UsageError

soundfile = pytest.importorskip("soundfile")

RATE = 1000
CLOCK = np.arange(10_500, dtype=np.float32) / RATE  # every sample says when it is: 10.5 seconds


class Ears(AudioEncoder):
    """Features: the first and the last sample of a clip."""

    def __init__(self):
        super().__init__()
        self.dim, self.weight = 2, nn.Parameter(torch.ones(()))
        features = LogMelConfig(sample_rate=RATE, seconds=2.0, low_freq=0.0, num_mel_bins=4)
        config = AudioPreprocessConfig(features=features, augment=AugmentConfig())
        self.preprocess = AudioPreprocess(config)

    def forward(self, batch):
        clips = batch["waveform"] * self.weight
        return Features(tokens=clips[:, None], pooled=clips[:, [0, -1]])


def file(path, samples=CLOCK, rate=RATE, form="WAV"):
    soundfile.write(path, samples.T, rate, format=form, subtype="FLOAT" if form == "WAV" else None)
    return path


def starts_of(seconds, window, hop, rate=RATE):
    sound = Audio(CLOCK[None, : round(seconds * rate)], rate)
    return [start for start, _ in cut(Recording(sound), window, hop)]


@pytest.mark.parametrize(
    ("seconds", "window", "hop", "starts"),
    [
        (10.0, 2.0, 2.0, [0, 2, 4, 6, 8]),
        (10.5, 2.0, 2.0, [0, 2, 4, 6, 8, 8.5]),  # the last ends where the recording ends
        (10.0, 4.0, 3.0, [0, 3, 6]),
        (10.5, 4.0, 3.0, [0, 3, 6, 6.5]),
        (5.0, 1.0, 2.0, [0, 2, 4]),
        (2.0, 2.0, 1.0, [0]),
        (1.2, 2.0, 1.0, [0]),  # shorter than a window
        (2.1, 2.0, 5.0, [0, 0.1]),
    ],
)
def test_where_windows_start(seconds, window, hop, starts):
    assert starts_of(seconds, window, hop) == pytest.approx(starts)


@pytest.mark.parametrize(("window", "hop"), [(2.0, 0.7), (1.0, 3.0), (0.333, 0.333), (20.0, 1.0)])
def test_windows_hold_what_their_times_say(window, hop):
    size = min(round(window * RATE), len(CLOCK))
    for start, audio in cut(Recording(Audio(np.stack([CLOCK, -CLOCK]), RATE)), window, hop):
        at = round(start * RATE)
        assert audio.rate == RATE
        assert np.array_equal(audio.samples, np.stack([CLOCK, -CLOCK])[:, at : at + size])


def test_embedding_gives_features_with_times(tmp_path):
    ears = Ears()
    paths = [file(tmp_path / "long.wav"), file(tmp_path / "short.wav", CLOCK[:1500])]
    found = ears.embed(paths, window=2.0, hop=1.5, batch_size=3, progress=False)
    assert found.inputs.tolist() == [0] * 7 + [1]
    assert found.starts.tolist() == [0, 1.5, 3, 4.5, 6, 7.5, 8.5, 0]
    assert found.features.shape == (8, 2)
    assert found.features.dtype == np.float32
    assert np.allclose(found.features[:, 0], found.starts)
    assert np.allclose(found.features[:7, 1], found.starts[:7] + 1.999)
    assert found.skipped == {}
    # The same, whatever its company, and as the excerpt alone.
    alone = ears.embed(paths[0], window=2.0, hop=1.5, batch_size=64)
    assert np.array_equal(alone.features, found.features[:7])
    assert np.array_equal(ears.embed([CLOCK[3000:5000]]), found.features[2:3])


def test_without_overlap_by_default():
    assert Ears().embed([CLOCK], window=2.0).starts.tolist() == [0, 2, 4, 6, 8, 8.5]
    assert Ears().embed([CLOCK[:2000]] * 3).shape == (3, 2)


def test_bad_recordings_are_named_or_raise(tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("this is no sound")
    late = tmp_path / "late.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, 60_000)
    file(late, noise, 8000, "FLAC")
    data = late.read_bytes()
    late.write_bytes(data[: 3 * len(data) // 4])
    inputs = [text, file(tmp_path / "good.wav"), late, np.array([np.nan] * 5000), CLOCK[:2000]]
    found = Ears().embed(inputs, window=2.0, batch_size=2, skip_bad=True)
    assert sorted(found.skipped) == [0, 2, 3]
    assert "text.wav" in found.skipped[0]
    assert "late.flac: damaged" in found.skipped[2]
    assert found.inputs.tolist() == [1] * 6 + [4]  # nothing of what was damaged late
    assert len(found.features) == len(found.starts) == 7
    for bad in (0, 2, 3):
        with pytest.raises(DataError):
            Ears().embed([inputs[bad]], window=2.0)
    nothing = Ears().embed([text], window=2.0, skip_bad=True)
    assert nothing.features.shape == (0, 2)


@pytest.mark.parametrize(
    "options", [{"window": 3.0}, {"window": 0.0}, {"window": 1.0, "hop": -1.0}, {"hop": 1.0}]
)
def test_windows_that_cannot_be_are_refused(options):
    with pytest.raises(UsageError):
        Ears().embed([CLOCK], **options)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    def peak(minutes):
        buffer = io.BytesIO()
        soundfile.write(buffer, np.zeros(minutes * 60 * 8000), 8000, format="FLAC")
        path = tmp_path / f"{minutes}.flac"
        path.write_bytes(buffer.getvalue())
        tracemalloc.start()
        Ears().embed(path, window=2.0, batch_size=8)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)
    assert peak(8) < 1.5 * peak(1)


@pytest.fixture
def command(monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda *_, **__: Ears())

    def run(*words):
        words = ["runs/ears", *map(str, words)]
        return CliRunner().invoke(embed.command, words, catch_exceptions=False)

    return run


def test_a_folder_of_recordings_from_the_command_line(tmp_path, command):
    folder = tmp_path / "recordings"
    (folder / "night").mkdir(parents=True)
    (folder / "notes.txt").write_text("of no interest")
    (folder / "bad.wav").write_text("no sound")
    paths = [file(folder / "b.wav"), file(folder / "night" / "a.flac", CLOCK / 11, 8000, "FLAC")]
    out = tmp_path / "features.csv"
    done = command(folder, "-o", out, "--window", 2, "--hop", 1.5)
    assert done.exit_code == 0
    assert "left out" in done.stderr
    assert "bad.wav" in done.stderr
    with out.open() as table:
        rows = list(csv.reader(table))
    want = Ears().embed(paths, window=2.0, hop=1.5)
    assert [row[0] for row in rows] == [str(paths[number]) for number in want.inputs]
    assert np.allclose(np.array([row[1:] for row in rows], float)[:, 0], want.starts)
    assert np.allclose(np.array([row[2:] for row in rows], float), want.features)
    out = tmp_path / "features.npz"
    assert command(paths[0], "-o", out, "--window", 2).exit_code == 0
    with np.load(out) as arrays:
        assert arrays["starts"].tolist() == [0, 2, 4, 6, 8, 8.5]
        assert arrays["features"].shape == (6, 2)


def test_the_command_line_says_what_is_wrong(tmp_path, command):
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    out = tmp_path / "features.npy"
    with pytest.raises(DataError, match=r"bad\.wav"):
        command(bad, "-o", out, "--window", 2)
    with pytest.raises(DataError, match="no recording"):
        command(tmp_path, "-o", out, "--window", 2)
    with pytest.raises(UsageError, match="--window"):
        command(bad, "-o", out, "--hop", 2)
    assert not out.exists()
