import io
import json
import os
import subprocess
import tarfile
import warnings

import pytest

from zoo.data.shards import MANIFEST, ShardSet, write_shards
from zoo.errors import DataError, StorageError, UsageError
from zoo.files import sha256_of


def samples(count):
    for i in range(count):
        yield f"{i:05d}", {"txt": f"text {i}".encode(), "cls": str(i % 3).encode()}


@pytest.fixture
def folder(tmp_path):
    write_shards(samples(25), tmp_path / "s", samples_per_shard=10)
    return tmp_path / "s"


def test_round_trip_in_order(folder):
    shards = ShardSet(folder)
    assert len(shards) == 25
    assert [path.name for path in shards.paths] == ["00000.tar", "00001.tar", "00002.tar"]
    for i, (key, members) in enumerate(samples(25)):
        assert shards.key(i) == key
        assert shards.read(i) == members


def test_same_samples_give_the_same_bytes(folder, tmp_path):
    write_shards(samples(25), tmp_path / "again", samples_per_shard=10)
    for path in folder.glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_manifest_tells_the_truth(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["samples"] == 25
    for row in manifest["shards"]:
        path = folder / row["name"]
        assert row["bytes"] == path.stat().st_size
        assert row["sha256"] == sha256_of(path)


def test_readable_by_tar_and_webdataset(folder):
    listing = subprocess.run(
        ["tar", "tf", folder / "00000.tar"], capture_output=True, text=True, check=True
    )
    assert listing.stdout.split()[:2] == ["00000.cls", "00000.txt"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        urls = [str(path) for path in sorted(folder.glob("*.tar"))]
        found = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [(s["__key__"], s["txt"]) for s in found] == [(k, m["txt"]) for k, m in samples(25)]


def test_every_way_to_name_shards(folder):
    whole = ShardSet(folder).fingerprint
    assert ShardSet(str(folder)).fingerprint == whole
    assert ShardSet(f"{folder}/{{00000..00002}}.tar").fingerprint == whole
    assert ShardSet(f"{folder}/*.tar").fingerprint == whole
    assert ShardSet(sorted(folder.glob("*.tar"))).fingerprint == whole
    assert ShardSet(folder / "00001.tar").fingerprint != whole
    assert len(ShardSet(folder / "00002.tar")) == 5


def test_nothing_there_is_said(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for spec, message in [
        (tmp_path / "empty", "no shards"),
        (tmp_path / "none.tar", "no such shard"),
        (f"{folder}/{{0..3}}.tar", "no such shard"),
        (f"{folder}/x*.tar", "no such shards"),
        ([], "no shards given"),
    ]:
        with pytest.raises(UsageError, match=message):
            ShardSet(spec)
    with tarfile.open(tmp_path / "hollow.tar", "w"):
        pass
    with pytest.raises(UsageError, match="no samples"):
        ShardSet(tmp_path / "hollow.tar")


def test_members_that_are_no_samples_are_left_out(tmp_path):
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.txt", "README", ".hidden.txt", "__meta__/x.txt", "d.r/b.seg.PNG", "a.cls"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("c.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    shards = ShardSet(path)
    assert [shards.key(i) for i in range(len(shards))] == ["a", "d.r/b"]
    assert set(shards.read(0)) == {"txt", "cls"}
    assert set(shards.read(1)) == {"seg.png"}


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_damaged_shards_are_named(folder, damage):
    path = folder / "00001.tar"
    data = path.read_bytes()
    path.write_bytes({"text": b"<html>" * 200, "cut": data[: 512 + 3], "empty": b""}[damage])
    with pytest.raises(DataError, match=r"00001\.tar"):
        ShardSet(folder)


def test_a_shard_that_shrinks_later_is_named(folder):
    shards = ShardSet(folder)
    os.truncate(folder / "00002.tar", 600)
    with pytest.raises(DataError, match=r"00002\.tar, sample '00024': the shard ends early"):
        shards.read(24)


def test_an_occupied_folder_is_refused(folder):
    with pytest.raises(UsageError, match="already holds shards"):
        write_shards(samples(1), folder)


def test_no_samples_leave_no_shards(tmp_path):
    with pytest.raises(UsageError, match="no samples to write"):
        write_shards(iter(()), tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize("key", ["", "a.b", "/etc/x", "../x", "__meta__"])
def test_unsafe_keys_are_refused(key, tmp_path):
    with pytest.raises(UsageError, match="keys are relative names"):
        write_shards([(key, {"txt": b""})], tmp_path / "s")
    assert not list((tmp_path / "s").iterdir())


def test_a_failing_source_leaves_whole_shards_only(tmp_path):
    def broken():
        yield from samples(15)
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError):
        write_shards(broken(), tmp_path / "s", samples_per_shard=10)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["00000.tar"]
    assert len(ShardSet(tmp_path / "s" / "00000.tar")) == 10


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "s").write_text("")
    with pytest.raises(StorageError, match="cannot write") as caught:
        write_shards(samples(1), tmp_path / "s" / "deeper")
    assert "\n" not in str(caught.value)


def test_descriptors_are_closed(folder):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(5):
        shards = ShardSet(folder)
        [shards.read(i) for i in range(len(shards))]
        del shards
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
