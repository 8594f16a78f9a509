import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from itertools import pairwise
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.cli.shards.build import command
from zoo.data.building.build import BuildOptions, build_shards, cut, write_shards
from zoo.data.building.claim import claimed
from zoo.data.building.folders import folder_source
from zoo.data.building.rows import table_source
from zoo.errors import BusyError, DataError, StorageError, UnknownNameError, UsageError, ZooError
from zoo.files import sha256_of

SMALL = BuildOptions(samples_per_shard=5, shuffle=True, seed=3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """64 samples of two files."""
    root = tmp_path_factory.mktemp("files")
    for i in range(64):
        path = root / "ab"[i % 2] / f"{i:02d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text {i}")
        path.with_suffix(".bin").write_bytes(bytes(i * 20))
    return root


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """What an undisturbed build in this process gives."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    build_shards(folder_source(files), folder, SMALL, workers=0)
    return digests(folder)


def digests(folder):
    """Name -> digest of the shards and the manifest; nothing else may be there but the indexes."""
    names = {path.name for path in folder.iterdir() if path.suffix != ".zidx"}
    indexes = {path.name[:-5] for path in folder.glob("*.zidx")}
    assert indexes == {name for name in names if name.endswith(".tar")}
    return {name: sha256_of(folder / name) for name in names}


def samples_in(folder):
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += [(m.name, tar.extractfile(m).read()) for m in tar]
    return found


@settings(deadline=None, max_examples=100, database=None)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    most_bytes=st.integers(1, 120),
    most=st.integers(1, 20),
)
def test_every_sample_is_in_one_shard_and_shards_are_full(sizes, most_bytes, most):
    options = BuildOptions(shard_bytes=most_bytes, samples_per_shard=most)
    bounds = cut(np.array(sizes), options).tolist()
    assert bounds == sorted(set(bounds))
    assert (bounds[0], bounds[-1]) == (0, len(sizes))
    for begin, end in pairwise(bounds):
        assert end - begin == 1 or (sum(sizes[begin:end]) <= most_bytes and end - begin <= most)
        full = end - begin == most or sum(sizes[begin : end + 1]) > most_bytes
        assert full or end == len(sizes)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_whoever_works(files, whole, tmp_path, workers):
    build_shards(folder_source(files), tmp_path, SMALL, workers=workers)
    assert digests(tmp_path) == whole


def test_nothing_is_lost_or_doubled(files, tmp_path):
    """And the seed decides the order, webdataset reads it, the manifest tells the truth."""
    orders = []
    for seed in (0, 1):
        options = BuildOptions(shard_bytes=20_000, shuffle=True, seed=seed)
        folder = tmp_path / str(seed)
        manifest = build_shards(folder_source(files), folder, options, workers=0)
        found = samples_in(folder)
        expected = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.glob("*/*")}
        assert len(found) == len(expected)
        assert dict(found) == expected
        orders.append([name for name, _ in found])
        assert all(row["bytes"] <= 20_000 + 1024 for row in manifest["shards"])
        assert [row["sha256"] for row in manifest["shards"]] == [
            sha256_of(folder / row["name"]) for row in manifest["shards"]
        ]
    assert orders[0] != orders[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        urls = sorted(str(path) for path in folder.glob("*.tar"))
        keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert [f"{key}.{part}" for key in keys for part in ("bin", "txt")] == orders[1]


def test_keys_of_a_shard_differ(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("k,t\na.b,1\na_b,2\na_b-1,3\na.b,4\n")
    build_shards(table_source(table, members={"txt": "t"}, key="k"), tmp_path / "s", workers=0)
    names = [name for name, _ in samples_in(tmp_path / "s")]
    assert names == ["a_b.txt", "a_b-1.txt", "a_b-1-1.txt", "a_b-2.txt"]


def spread_of_sizes(members):
    if members["txt"] == b"bad":
        raise DataError("is bad")
    return {"size": len(members["txt"]), "odd": float("nan") if members["txt"] == b"" else 1}


def test_bad_samples_end_the_work_or_are_listed(tmp_path):
    for i, text in enumerate(["one", "bad", "seventh", "", "gone", "bad"]):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{i}.txt").write_text(text)
    source, folder = folder_source(tmp_path / "in"), tmp_path / "s"
    options = BuildOptions(samples_per_shard=1)
    with pytest.raises(DataError, match=r"^1: is bad; "):
        build_shards(source, folder, options, measure=spread_of_sizes, workers=0)
    patient = folder_source(tmp_path / "in", skip=True)
    (tmp_path / "in" / "4.txt").unlink()
    manifest = build_shards(patient, folder, options, measure=spread_of_sizes, workers=0)
    rows = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    codes = [("1", "DECODE"), ("3", "NONFINITE"), ("4", "IO"), ("5", "DECODE")]
    assert [(row["where"], row["code"]) for row in rows] == codes
    assert manifest["skipped"] == 4
    assert manifest["measured"]["size"] == {"count": 2, "min": 3, "mean": 5.0, "max": 7}
    assert [row["name"] for row in manifest["shards"]] == ["00000.tar", "00002.tar"]
    assert set(digests(folder)) == {"00000.tar", "00002.tar", "manifest.json", "skipped.jsonl"}


def test_an_unfinished_folder_takes_only_the_same(files, whole, tmp_path):
    ways = [
        (files, BuildOptions(samples_per_shard=5, shuffle=True, seed=4), {}),
        (files / "a", SMALL, {}),
        (files, SMALL, {"facts": {"licence": "MIT"}}),
    ]
    reads = 0

    def stop(members):
        nonlocal reads
        reads += 1
        if reads > 20:
            raise DataError("stop")
        return {}

    with pytest.raises(DataError, match="stop"):
        build_shards(folder_source(files), tmp_path, SMALL, measure=stop, workers=0)
    for root, options, more in ways:
        with pytest.raises(UsageError, match="unfinished shards of other"):
            build_shards(folder_source(root), tmp_path, options, workers=0, **more)
    with pytest.raises(UsageError, match="unfinished shards of other"):
        write_shards([("a", {"txt": b""})], tmp_path)
    kept = [(path.name, path.stat().st_mtime_ns) for path in sorted(tmp_path.glob("*.tar"))]
    assert len(kept) == 4
    build_shards(folder_source(files), tmp_path, SMALL, workers=0)
    assert digests(tmp_path) == whole
    assert (
        kept
        == [(path.name, path.stat().st_mtime_ns) for path in sorted(tmp_path.glob("*.tar"))][:4]
    )
    with pytest.raises(UsageError, match="already holds shards"):
        build_shards(folder_source(files), tmp_path, SMALL, workers=0)


def test_a_kill_after_the_manifest_leaves_only_the_tidying(files, whole, tmp_path, monkeypatch):
    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("zoo.data.building.claim._clear", killed)
        with pytest.raises(KeyboardInterrupt):
            build_shards(folder_source(files), tmp_path, SMALL, workers=0)
    assert {"manifest.json", "build.json"} < {path.name for path in tmp_path.iterdir()}
    assert build_shards(folder_source(files), tmp_path, SMALL, workers=0)["samples"] == 64
    assert digests(tmp_path) == whole


def test_one_builder_at_a_time(tmp_path):
    with claimed(tmp_path, "a"):
        with pytest.raises(BusyError, match="another process"), claimed(tmp_path, "a"):
            pass
        assert (tmp_path / "build.json").exists()
    assert not list(tmp_path.iterdir())


SCRIPT = """
import sys
from pathlib import Path
from zoo.data.building.build import BuildOptions, build_shards
from zoo.data.building.folders import folder_source
options = BuildOptions(samples_per_shard=5, shuffle=True, seed=3)
build_shards(folder_source(Path(sys.argv[1])), Path(sys.argv[2]), options, workers=int(sys.argv[3]))
"""


def started(files, folder, workers):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, files, folder, str(workers)],
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(folder, pattern, process):
    while not any(folder.glob(pattern)) and process.poll() is None:
        time.sleep(0.001)


@pytest.mark.parametrize("trial", range(6))
def test_kill_the_builder_and_run_it_again(files, whole, tmp_path, trial):
    workers = 2 * (trial % 2)
    process = started(files, tmp_path, workers)
    wait_for(tmp_path, "*.tar", process)
    time.sleep(random.Random(trial).uniform(0, 0.06))
    process.kill()
    process.communicate()
    there = sorted(tmp_path.glob("*.tar"))
    assert {path.name: sha256_of(path) for path in there}.items() <= whole.items()
    if (tmp_path / "build.json").exists():
        build_shards(folder_source(files), tmp_path, SMALL, workers=0)
    assert digests(tmp_path) == whole
    names = [name for name, _ in samples_in(tmp_path)]
    assert len(set(names)) == len(names) == 128


def test_a_dead_worker_is_named(files, whole, tmp_path):
    def shoot():
        while not (crew := active_children()):
            time.sleep(0.001)
        os.kill(crew[0].pid, signal.SIGKILL)

    threading.Thread(target=shoot).start()
    with pytest.raises(ZooError, match=r"^\d{5}\.tar: its worker process died \(exit code -9"):
        build_shards(folder_source(files), tmp_path, SMALL, workers=2)
    assert not active_children()
    build_shards(folder_source(files), tmp_path, SMALL, workers=0)
    assert digests(tmp_path) == whole


def interrupted(files, out):
    """What a build said that was interrupted after its first shard; None if it had ended before."""
    words = ["--samples-per-shard", 1, "--shuffle", "--workers", 2]
    code = "from zoo.cli.shards.build import command; command()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, files, out, *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(out, "*.tar", process)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    return None if (out / "manifest.json").exists() else said


def test_interrupt_leaves_whole_shards(files, tmp_path):
    for number in range(8):  # on a busy machine the build may be over before the signal comes
        out = tmp_path / str(number)
        if said := interrupted(files, out):
            break
    assert "finished shards are whole; the same command continues" in said
    assert "Traceback" not in said
    assert not list(out.glob(".*"))
    source, options = folder_source(files), BuildOptions(samples_per_shard=1, shuffle=True)
    assert build_shards(source, out, options, workers=0)["samples"] == 64


BLOCKED = """
import signal
from dataclasses import dataclass
from zoo.data.building.engines import run_local

@dataclass
class Job:
    name: str

def blocked(job):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

if __name__ == "__main__":
    print(list(run_local(blocked, [Job("a"), Job("b")], workers=2)), blocked(None))
"""


def test_no_worker_ever_sees_an_interrupt(tmp_path):
    (tmp_path / "script.py").write_text(BLOCKED)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True)
    assert done.stdout.strip() == "[True, True] False", done.stderr


def items(count, size=1):
    for i in range(count):
        yield f"{i:03d}", {"txt": str(i).encode() * size, "cls": b"1"}


def test_any_iterable(tmp_path):
    assert write_shards(items(12), tmp_path / "a", samples_per_shard=5) == 12
    assert [len(s) for s in _by_shard(tmp_path / "a")] == [5, 5, 2]
    assert write_shards(items(12, size=500), tmp_path / "b", bytes_per_shard=6000) == 12
    assert write_shards(items(3, size=5000), tmp_path / "c", bytes_per_shard=1) == 3
    assert [len(s) for s in _by_shard(tmp_path / "c")] == [1, 1, 1]
    for path in (tmp_path / "b").glob("*.tar"):
        assert path.stat().st_size <= 6000 + 1024
    assert len(samples_in(tmp_path / "b")) == 24


def _by_shard(folder):
    shards = json.loads((folder / "manifest.json").read_text())["shards"]
    return [range(row["samples"]) for row in shards]


def test_an_iterable_continues(tmp_path):
    def broken():
        yield from items(8)
        raise RuntimeError("gone")

    write_shards(items(12), tmp_path / "whole", samples_per_shard=3)
    with pytest.raises(RuntimeError, match="gone"):
        write_shards(broken(), tmp_path / "s", samples_per_shard=3)
    with pytest.raises(UsageError, match="holds other samples"):
        write_shards(items(12, size=2), tmp_path / "s", samples_per_shard=3)
    before = (tmp_path / "s" / "00001.tar").stat().st_mtime_ns
    write_shards(items(12), tmp_path / "s", samples_per_shard=3)
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")
    assert (tmp_path / "s" / "00001.tar").stat().st_mtime_ns == before


def test_wrong_requests(files, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean local"):
        build_shards(folder_source(files), tmp_path, engine="locl")
    with pytest.raises(UsageError, match="at least one byte"):
        BuildOptions(shard_bytes=0)
    with pytest.raises(UsageError, match="seed must be 0 or more"):
        BuildOptions(seed=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        build_shards(folder_source(files), tmp_path / "file" / "s", workers=0)
    with pytest.raises(UsageError, match="sample key"):
        write_shards([("a.b", {"txt": b""})], tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())


@pytest.fixture
def threads():
    """Decoding in this process sets how many torch has."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_command(files, tmp_path, capsys):
    def zoo_shards_build(*words):
        command.main([*map(str, words), "--workers", "0"], standalone_mode=False)
        return capsys.readouterr().out

    said = zoo_shards_build(files, tmp_path / "a", "--shard-size", "20kB", "--label-from-folder")
    assert said == f"{tmp_path / 'a'}: 13 shards, 64 samples, 235 kB\n"
    table = tmp_path / "t.csv"
    table.write_text("path,caption\nx.txt,one\ny.txt,two\n")
    (tmp_path / "x.txt").write_text("x" * 10)
    words = (table, tmp_path / "b", "-m", "txt=@path", "-m", "py=caption", "--skip-bad")
    said = zoo_shards_build(*words, "--modality", "code", "--licence", "MIT")
    assert said.endswith(
        f"1 samples, 3.07 kB; bad samples: 1, see {tmp_path / 'b/skipped.jsonl'}\n"
    )
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert (manifest["licence"], manifest["modality"], manifest["skipped"]) == ("MIT", "code", 1)
    assert manifest["measured"]["bytes"]["max"] == 10
    for wrong, message in [
        ((files, "-m", "a=b"), "--member is for tables"),
        ((table, "--label-from-folder"), "is for folders"),
        ((table, "-m", "jpg"), "not of the form jpg=@path"),
        ((files, "--shard-size", "1 apple"), "no size such as 1GB"),
        ((files, "--modality", "visoin"), "did you mean vision"),
    ]:
        with pytest.raises(UsageError, match=message):
            zoo_shards_build(wrong[0], tmp_path / "c", *wrong[1:])
    assert not (tmp_path / "c").exists()
