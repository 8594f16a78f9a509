import contextlib
import errno
import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from data.samples import numbers

from zoo.data.building.build import write_shards
from zoo.data.shard import opened
from zoo.data.shard.indexing import SUFFIX
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError


def samples(count):
    for i in range(count):
        yield f"{i:05d}", {"txt": f"text {i}".encode(), "cls": str(i % 3).encode()}


@pytest.fixture
def folder(tmp_path):
    write_shards(samples(25), tmp_path / "s", samples_per_shard=10)
    return tmp_path / "s"


def archive(path, members):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_round_trip_in_order(folder):
    shards = ShardSet(folder)
    assert len(shards) == 25
    assert shards.counts.tolist() == [10, 10, 5]
    for i, (key, members) in enumerate(samples(25)):
        assert shards.key(i) == key
        assert shards.read(i) == members


def test_many_at_once_are_the_same(folder):
    shards = ShardSet(folder)
    ids = np.random.default_rng(0).permutation(25)
    found = {place: {e: bytes(d) for e, d in members.items()}
             for place, members in shards.read_many(ids)}  # fmt: skip
    assert found == {place: shards.read(i) for place, i in enumerate(ids)}


def test_every_way_to_name_shards(folder, monkeypatch):
    whole = ShardSet(folder).fingerprint
    assert ShardSet(str(folder)).fingerprint == whole
    assert ShardSet(f"{folder}/{{00000..00002}}.tar").fingerprint == whole
    assert ShardSet(f"{folder}/*.tar").fingerprint == whole
    assert ShardSet(sorted(folder.glob("*.tar"))).fingerprint == whole
    assert ShardSet([f"{folder}/{{00000,00001}}.tar", f"{folder}/00002.tar"]).fingerprint == whole
    assert ShardSet(folder / "00001.tar").fingerprint != whole
    assert len(ShardSet(folder / "00002.tar")) == 5
    monkeypatch.chdir(folder)
    assert ShardSet("{00000..00002}.tar").fingerprint == whole


def test_the_fingerprint_is_of_the_content_not_of_the_place(folder, tmp_path):
    whole = ShardSet(folder).fingerprint
    moved = folder.rename(tmp_path / "elsewhere")
    assert ShardSet(moved).fingerprint == whole
    (moved / MANIFEST).unlink()
    assert ShardSet(moved).fingerprint == whole
    write_shards(samples(26), tmp_path / "t", samples_per_shard=10)
    assert ShardSet(tmp_path / "t").fingerprint != whole


def test_nothing_there_is_said(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for spec, message in [
        (tmp_path / "empty", "no shards"),
        (tmp_path / "none.tar", "no such shard"),
        (f"{folder}/{{0..3}}.tar", "no such shard"),
        (f"{folder}/x*.tar", "no such shards"),
        (f"{folder}/{{0..3.tar", "unbalanced"),
        ("pipe:cat /etc/passwd", "pipe:"),
        ([], "no shards given"),
    ]:
        with pytest.raises(UsageError, match=message) as caught:
            ShardSet(spec)
        assert "\n" not in str(caught.value)
    archive(tmp_path / "hollow.tar", [])
    with pytest.raises(UsageError, match="no samples"):
        ShardSet(tmp_path / "hollow.tar")


def test_a_shard_that_is_none_is_named_or_left_out(folder):
    (folder / MANIFEST).unlink()
    (folder / "00001.tar").write_text("<html>" * 200)
    with pytest.raises(DataError, match=r"00001\.tar: not a tar.*allow_missing"):
        ShardSet(folder)
    assert len(ShardSet(folder, allow_missing=True)) == 15


def test_a_cut_shard_keeps_the_numbers_of_the_others(folder):
    """The manifest knows how many there were: sample 20 stays sample 20."""
    os.truncate(folder / "00001.tar", 512 * 13)
    shards = ShardSet(folder)
    assert len(shards) == 25
    assert shards.read(20) == dict(samples(25))["00020"]
    assert shards.read(12) == dict(samples(25))["00012"]
    with pytest.raises(DataError, match=r"00001\.tar, sample .*: the shard ends early") as caught:
        shards.read(17)
    assert caught.value.code == "TRUNCATED"
    with pytest.raises(DataError, match=r"00001\.tar: damaged \(TRUNCATED"):
        ShardSet(folder, strict=True)


def test_required_parts(tmp_path):
    members = [("a.txt", b"1"), ("a.cls", b"1"), ("b.txt", b"1"), ("c.txt", b"1"), ("c.cls", b"1")]
    path = archive(tmp_path / "s.tar", members)
    assert ShardSet(path).read(1) == {"txt": b"1"}
    shards = ShardSet(path, require=("txt", "cls"))
    assert shards.read(2)["cls"] == b"1"
    with pytest.raises(DataError, match=r"s\.tar, sample 'b': parts are missing"):
        shards.read(1)
    with pytest.raises(DataError, match="MISSING_PART"):
        ShardSet(path, require=("txt", "cls"), strict=True)


def test_a_shard_that_shrinks_later_is_named(folder):
    shards = ShardSet(folder)
    shards.read(0)
    os.truncate(folder / "00002.tar", 600)
    with pytest.raises(DataError, match=r"00002\.tar, sample '.*': the shard ends early"):
        shards.read(24)


def test_changed_bytes_are_noticed_where_zoo_wrote_them(folder):
    path = folder / "00000.tar"
    stat, content = path.stat(), path.read_bytes()
    path.write_bytes(content.replace(b"text 3", b"tent 3"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # rot changes no times
    with pytest.raises(DataError, match="not those that were written") as caught:
        ShardSet(folder).read(3)
    assert caught.value.code == "CHECKSUM"
    assert ShardSet(folder, check=False).read(3)["txt"] == b"tent 3"
    assert ShardSet(folder).read(4)


def test_indexes_are_made_once_and_again_when_the_shard_changes(tmp_path):
    path = archive(tmp_path / "s.tar", [("a.txt", b"1"), ("b.txt", b"2")])
    assert len(ShardSet(path)) == 2
    index = tmp_path / f"s.tar{SUFFIX}"
    first = index.stat().st_mtime_ns
    assert ShardSet(path).key(1) == "b"
    assert index.stat().st_mtime_ns == first
    archive(path, [("a.txt", b"1"), ("b.txt", b"2"), ("c.txt", b"3")])
    os.utime(path, ns=(0, time.time_ns() + 10**9))
    assert [ShardSet(path).key(i) for i in range(3)] == ["a", "b", "c"]
    index.write_bytes(b"rubbish")
    assert len(ShardSet(path)) == 3


def test_a_read_only_folder_keeps_its_index_in_the_cache(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    path = archive(tmp_path / "data" / "s.tar", [("a.txt", b"1")])
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    # root may write anywhere: the place of the index is a folder instead
    (tmp_path / "data" / f"s.tar{SUFFIX}").mkdir()
    assert len(ShardSet(path)) == 1
    [stored] = (tmp_path / "cache" / "indexes").iterdir()
    first = stored.stat().st_mtime_ns
    assert len(ShardSet(path)) == 1
    assert stored.stat().st_mtime_ns == first


def test_a_manifest_saves_looking_at_the_shards(folder):
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink()
    assert len(ShardSet(folder)) == 25
    assert not list(folder.glob(f"*{SUFFIX}"))


def test_a_damaged_manifest_is_named_and_a_strangers_is_left_alone(folder):
    good = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(good[:-40])
    with pytest.raises(DataError, match=r"manifest\.json: damaged manifest"):
        ShardSet(folder)
    (folder / MANIFEST).write_text(good.replace('"samples": 10', '"samples": -1'))
    with pytest.raises(DataError, match="damaged manifest"):
        ShardSet(folder)
    (folder / MANIFEST).write_text(json.dumps({"name": "an app"}))
    assert len(ShardSet(folder)) == 25


def test_more_shards_than_may_be_open(tmp_path, monkeypatch):
    write_shards(numbers(40), tmp_path / "s", samples_per_shard=1)
    monkeypatch.setattr("zoo.data.shards._OPEN", 3)
    shards = ShardSet(tmp_path / "s")
    for _ in range(2):
        assert sum(1 for _ in shards.read_many(np.arange(40))) == 40
    assert len(shards._open) == 3


def test_passing_trouble_is_waited_for(folder, monkeypatch):
    monkeypatch.setattr(opened, "_WAIT", 0.001)
    calls, real = [], os.preadv

    def flaky(*args):
        calls.append(args)
        if len(calls) % 3:
            raise OSError(errno.EIO, "Input/output error")
        return real(*args)

    shards = ShardSet(folder)
    shards.index(0)
    monkeypatch.setattr(os, "preadv", flaky)
    assert shards.read(0)["txt"] == b"text 0"

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(DataError, match=r"00000\.tar: cannot read it") as caught:
        shards.read(1)
    assert caught.value.code == "IO"


def test_descriptors_are_closed(folder):
    def opened():
        """Files of its own shards: those of other tests may be closed at any moment."""
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(link.readlink())
        return [path for path in found if folder in path.parents]

    for _ in range(5):
        shards = ShardSet(folder)
        [shards.read(i) for i in range(len(shards))]
        assert opened()
        del shards
    assert not opened()
