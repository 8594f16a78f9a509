"""BirdSet's tables, offline: the script, on made-up recordings in the data set's own formats."""

import io
import json
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner
from zoo.benchmarks.tables.birdset import LINES, TASKS, command, published
from zoo.benchmarks.tables.birdset_data import (
    BirdSet,
    Row,
    candidates,
    few_shot,
    limited,
    stretch,
)
from zoo.hub.export import save_export
from zoo.registry.build import encoder_spec

import zoo
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError

soundfile = pytest.importorskip("soundfile")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RATE, CODES = 8000, ("zebfin", "amerob", "houspa")
TONES = dict(zip(CODES, (500, 1500, 3000), strict=True))


def song(codes, seconds, at=0.0):
    """Noise, and a second of each species' tone."""
    time = np.arange(round(seconds * RATE)) / RATE
    sound = 0.02 * np.random.default_rng(0).standard_normal(len(time))
    on = (time >= at) & (time < at + 1)
    return sound + sum(0.3 * on * np.sin(2 * np.pi * TONES[code] * time) for code in codes)


def archive(path, files):
    """As on the Hub: some archives hold their files in a folder."""
    with tarfile.open(path, "w:gz") as tar:
        for name, samples in files.items():
            data = io.BytesIO()
            soundfile.write(data, samples, RATE, format="OGG", subtype="VORBIS")
            entry = tarfile.TarInfo(f"{path.name[:9]}/{name}")
            entry.size = len(data.getvalue())
            tar.addfile(entry, io.BytesIO(data.getvalue()))


def recording(name, code, *, secondary=(), events=(), clusters=()):
    return {
        "filepath": f"train/{name}",
        "ebird_code": code,
        "ebird_code_multilabel": [code],
        "ebird_code_secondary": list(secondary) or None,
        "detected_events": [list(event) for event in events],
        "event_cluster": list(clusters),
        "length": 0,
        "quality": "A",
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four recordings a species, one of them with a second species; 9 segments, 3 of them empty."""
    root = tmp_path_factory.mktemp("hub")
    folder = root / "HSN"
    folder.mkdir()
    rows, files = [], {}
    for code in CODES:
        for number in range(4):
            name = f"XC{len(rows):03d}.ogg"
            events = [(1.0, 2.0), (4.5, 5.5), (7.0, 7.5)]
            others = ("amerob",) if number == 3 else ()
            clusters = [0, -1, 0]
            rows.append(recording(name, code, secondary=others, events=events, clusters=clusters))
            files[name] = song([code], 8, at=1.0)
    pq.write_table(pa.Table.from_pylist(rows), folder / "HSN_metadata_train.parquet")
    for number, half in enumerate((list(files)[:6], list(files)[6:]), 1):
        part = {name: files[name] for name in half}
        archive(folder / f"HSN_train_shard_{number:04d}.tar.gz", part)
    rows, files = [], {}
    for codes in [(CODES[0],), (CODES[1],), (CODES[2],), CODES[:2], CODES[1:], CODES] + [()] * 3:
        name = f"HSN_001_20150708_061805_{5 * len(rows):03d}_{5 * len(rows) + 5:03d}.ogg"
        rows.append({"filepath": name, "ebird_code_multilabel": list(codes), "quality": None})
        files[name] = song(codes, 5)
    pq.write_table(pa.Table.from_pylist(rows), folder / "HSN_metadata_test_5s.parquet")
    archive(folder / "HSN_test5s_shard_0001.tar.gz", files)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    features = {
        **{"sample_rate": RATE, "seconds": 2.0, "num_mel_bins": 32, "target_length": 192},
        **{"mean": -7.2, "std": 4.43},
    }
    spec = encoder_spec(
        "bird-mae-base", {"depth": 1, "dim": 24, "heads": 2}, {"features": features}
    )
    made = zoo.create(
        "bird-mae-base", seed=0, preprocess={"features": features}, depth=1, dim=24, heads=2
    )
    folder = tmp_path_factory.mktemp("encoder") / "export"
    save_export(folder, made, spec)
    return folder


@pytest.fixture(scope="module")
def table(source, encoder, tmp_path_factory):
    """Runs the script: its text and its numbers; shards are made once."""
    home = tmp_path_factory.mktemp("table")

    def made(*more):
        out = home / "numbers.json"
        words = [encoder, "epochs=3", "batch_size=8", "--source", source, "--out", out, *more]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ZOO_CACHE", str(home))
            done = CliRunner().invoke(command, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0
        return done.output, json.loads(out.read_text())["lines"]

    return made


def test_every_line_runs(source, table):
    text, lines = table("--seeds", 1)
    assert text.startswith(f"HSN from {source / 'HSN'}: 3 classes (published: 21), 12 recordings")
    assert [line["line"] for line in lines] == [line.name for line in LINES]
    assert "secondary" not in text  # nothing was published of this encoder
    assert "nan" not in text
    for line in lines:
        assert 0 < line["cmap"][0] <= 1
        assert (line["published"], line["skipped_classes"]) == ("-", 0)
        assert re.search(rf"^{re.escape(line['line'])} +[\d.]+% +- +- ", text, re.MULTILINE)
    found = {line["line"]: line["cmap"][0] for line in lines}
    assert found["prototypical, 5-shot"] > 0.8  # chance is 0.44


def test_seeds_give_an_interval(table):
    text, [line] = table("--seeds", 2, "--line", "prototypical, 1-shot")
    assert len(line["cmap"]) == len(line["auroc"]) == len(line["top1"]) == 2
    assert re.search(r"^prototypical, 1-shot +[\d.]+% +[\d.]+% to [\d.]+%", text, re.MULTILINE)
    with pytest.raises(UsageError, match="the lines are linear, "):
        table("--line", "proto-typical")


def test_shards_hold_what_was_published(source, tmp_path):
    data = BirdSet(source, "HSN", tmp_path)
    assert data.classes == sorted(CODES)
    train, test = ShardSet(data.train()), ShardSet(data.test())
    assert (len(train), len(test)) == (24, 9)
    facts = json.loads(bytes(train.read(0)["json"]))
    assert (facts["labels"], facts["file"]) == ([0], "XC004.ogg")
    labels = [json.loads(bytes(test.read(i)["json"]))["labels"] for i in range(9)]
    assert [len(found) for found in labels] == [1, 1, 1, 2, 2, 3, 0, 0, 0]
    assert data.train() == tmp_path / "HSN" / "train"  # once is enough


def test_a_clip_is_cut_around_its_event(source, tmp_path):
    train = ShardSet(BirdSet(source, "HSN", tmp_path).train())
    sound, rate = soundfile.read(io.BytesIO(bytes(train.read(0)["wav"])))
    assert (rate, len(sound)) == (RATE, 6 * RATE)
    loud = np.flatnonzero(np.abs(sound) > 0.15) / RATE
    assert loud.min() == pytest.approx(1.0, abs=0.02)  # the event at 1 s, shifted to the beginning
    assert loud.max() == pytest.approx(2.0, abs=0.02)


def test_few_shots(source, tmp_path):
    data = BirdSet(source, "HSN", tmp_path)
    for count in (1, 2, 10):
        shards = ShardSet(data.shots(count, seed=1))
        facts = [json.loads(bytes(shards.read(i)["json"])) for i in range(len(shards))]
        found = Counter(fact["labels"][0] for fact in facts)
        assert found == dict.fromkeys(range(3), min(count, 6))  # three recordings of two events
        if count == 2:  # different recordings come first
            assert len({fact["file"] for fact in facts}) == 6
        assert not {"XC003.ogg", "XC007.ogg", "XC011.ogg"} & {fact["file"] for fact in facts}


@pytest.mark.parametrize(
    ("counts", "limits", "kept"),
    [
        ([7, 7, 1, 1], (10, 2), [7, 7, 1, 1]),  # the next step would leave 4
        ([9, 7, 3, 1], (10, 2), [3, 3, 3, 1]),
        ([4, 4, 4, 4, 4], (10, 2), [4, 4, 4, 4, 4]),  # upstream never ends here
        ([3, 3, 1, 1], (4, 5), [1, 1, 1, 1]),
        ([5, 5, 5, 2], (10, 5), [5, 5, 5, 2]),
    ],
)
def test_limits(counts, limits, kept):
    rows = [
        Row(f"{i}.ogg", "zebfin", ("zebfin",), False, tuple((float(t), t + 0.5) for t in range(n)))
        for i, n in enumerate(counts)
    ]
    clips = limited(rows, class_limit=limits[0], event_limit=limits[1], seed=0)
    found = Counter(clip.row.file for clip in clips)
    assert [found[row.file] for row in rows] == kept
    assert len({(clip.row.file, clip.event) for clip in clips}) == len(clips)
    assert clips == limited(rows, class_limit=limits[0], event_limit=limits[1], seed=0)


def test_events():
    a, b, c = (0.0, 1.0), (2.0, 3.0), (4.0, 9.0)
    assert candidates((a, b, c), (1, 2, 2)) == (b, c)
    assert candidates((a, b, c), (2, 1, -1)) == (b,)  # a tie: the cluster with the lower number
    assert candidates((a,), (-1,)) == (a,)
    assert candidates((a, b), (-1, -1)) == candidates((), ()) == ((0.0, 5.0),)
    inner = Row("x.ogg", "zebfin", ("zebfin",), False, ((0.0, 5.0), (1.0, 2.0)))
    assert [clip.event for clip in few_shot([inner], 5, seed=0)] == [(0.0, 5.0)]


@pytest.mark.parametrize(
    ("event", "seconds", "cut"),
    [
        ((10.0, 11.0), 60.0, (7.5, 13.5)),
        ((0.5, 1.0), 60.0, (0.0, 6.0)),
        ((59.0, 60.0), 60.0, (54.0, 60.0)),
        ((1.0, 2.0), 3.0, (0.0, 3.0)),
        ((10.0, 22.0), 60.0, (10.0, 22.0)),
        ((0.0, 5.0), 4.0, (0.0, 4.0)),
    ],
)
def test_stretches(event, seconds, cut):
    assert stretch(event, seconds) == pytest.approx(cut)


def test_bad_sources(source, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        BirdSet(source, "POW", tmp_path)
    copy = tmp_path / "hub" / "HSN"
    copy.mkdir(parents=True)
    for name in ("HSN_metadata_train.parquet", "HSN_metadata_test_5s.parquet"):
        (copy / name).write_bytes((source / "HSN" / name).read_bytes())
    data = BirdSet(copy.parent, "HSN", tmp_path / "work")
    with pytest.raises(UsageError, match="no HSN_train_shard_0001"):
        data.train()
    part = (source / "HSN" / "HSN_train_shard_0001.tar.gz").read_bytes()
    (copy / "HSN_train_shard_0001.tar.gz").write_bytes(part[: len(part) // 2])
    with pytest.raises(DataError, match="damaged, download it again"):
        data.train()
    assert not (tmp_path / "work" / "HSN" / "recordings-train").exists()
    archive(copy / "HSN_test5s_shard_0001.tar.gz", {"other.ogg": song((), 1)})
    with pytest.raises(DataError, match="10 segments lack a row or a file"):
        data.test()


def test_published_numbers_are_marked():
    assert published("bird-mae-large", "HSN", "fine-tuned") == "55.28*"
    assert published("bird-mae-large", "POW", "linear") == "-"
    assert published("runs/mine", "HSN", "linear") == "-"
    assert {line.name for line in LINES} >= {"linear", "attentive", "prototypical", "fine-tuned"}
    assert len(TASKS) == 8
