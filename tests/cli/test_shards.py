"""zoo shards: what a person types at a data set, good and bad."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from zoo.data.shards import ShardSet

BROKEN = b"\x89PNG\r\n\x1a\n and nothing"


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "zoo", "shards", *map(str, words)],
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of pictures with captions."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(9):
        path = folder / ("cat" if i % 2 else "dog") / f"p{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 6, 3), 20 * i, np.uint8)).save(path)
        path.with_suffix(".txt").write_text(f"picture {i}")
    return folder


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    done = run("build", photos, out, "--samples-per-shard", 4, "--label-from-folder",
               "--modality", "vision", "--licence", "CC0-1.0", "--workers", 0)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: 3 shards, 9 samples")
    return out


@pytest.fixture
def damaged(shards, tmp_path):
    """A cut shard, one with a broken picture, one that is no shard."""
    folder = shutil.copytree(shards, tmp_path / "damaged")
    os.truncate(folder / "00000.tar", 512 * 9)
    rotten = (folder / "00001.tar").read_bytes()
    start = rotten.index(b"\x89PNG")
    (folder / "00001.tar").write_bytes(rotten[:start] + BROKEN + rotten[start + len(BROKEN) :])
    (folder / "00002.tar").write_text("<html>404</html>" * 100)
    return folder


def test_built_from_a_folder(shards):
    manifest = json.loads((shards / "manifest.json").read_text())
    assert manifest["samples"] == 9
    assert manifest["licence"] == "CC0-1.0"
    assert manifest["classes"] == ["cat", "dog"]
    assert manifest["measured"]["height"]["mean"] == 8
    found = ShardSet(shards)
    labels = {found.key(i): found.read(i)["cls"] for i in range(9)}
    assert labels == {f"{'cat' if i % 2 else 'dog'}/p{i}": b"01"[not i % 2 :][:1] for i in range(9)}


def test_info_and_head(shards):
    done = run("info", shards)
    assert done.returncode == 0
    first, table, *rows = done.stdout.splitlines()
    assert first.startswith("3 shards, ")
    assert first.endswith("9 samples")
    assert table.split() == ["part", "members", "bytes", "mean"]
    assert [row.split()[:2] for row in rows] == [["cls", "9"], ["png", "9"], ["txt", "9"]]
    done = run("head", shards, "-n", 2)
    assert "cat/p1" in done.stdout
    assert "uint8 (3, 8, 6)" in done.stdout
    assert "picture 3" in done.stdout
    assert "dog" not in done.stdout


def test_verify(shards, damaged):
    done = run("verify", shards, "--modality", "vision", "--require", "png,txt")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("verify", damaged, "--modality", "vision")
    assert done.returncode == 1
    assert done.stderr.startswith("zoo: 3 of 3 shards have something wrong")
    for said in ("00000.tar: damaged", "TRUNCATED", "CHECKSUM", "00002.tar: rejected", "NOT_TAR"):
        assert said in done.stdout
    done = run("verify", shards, "--require", "png,json")
    assert done.returncode == 1
    assert done.stdout.count("MISSING_PART") == 9


def test_repair(damaged, tmp_path):
    whole = run("repair", damaged / "00001.tar", tmp_path / "r.tar", "--modality", "vision")
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.startswith("left out: ")
    assert len(ShardSet(tmp_path / "r.tar")) == 3
    assert run("verify", tmp_path / "r.tar", "--modality", "vision").returncode == 0
    again = run("repair", damaged / "00001.tar", tmp_path / "r.tar")
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert run("repair", damaged / "00002.tar", tmp_path / "n.tar").returncode == 1
    assert not (tmp_path / "n.tar").exists()


def test_a_compressed_shard_is_read_and_converted(shards, tmp_path):
    import gzip

    packed = tmp_path / "s.tar.gz"
    packed.write_bytes(gzip.compress((shards / "00000.tar").read_bytes()))
    assert ShardSet(packed).read(0) == ShardSet(shards).read(0)
    assert run("repair", packed, tmp_path / "plain.tar").returncode == 0
    assert (tmp_path / "plain.tar").read_bytes() == (shards / "00000.tar").read_bytes()
    packed.write_bytes(gzip.compress(bytes(40 << 20)))
    with pytest.raises(Exception, match="200-fold"):
        ShardSet(packed)


def test_index(shards, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in shards.glob("*.tar"):
        shutil.copy(path, bare)
    done = run("index", bare, "--manifest")
    assert done.returncode == 0, done.stderr
    assert len(list(bare.glob("*.zidx"))) == 3
    ours = json.loads((shards / "manifest.json").read_text())
    assert json.loads((bare / "manifest.json").read_text())["shards"] == ours["shards"]


def test_wrong_requests_are_one_line(tmp_path):
    for words, said in [
        (("info", tmp_path), "no shards"),
        (("inf",), "did you mean info"),
        (("verify", tmp_path / "x.tar"), "no such shard"),
        (("build", tmp_path / "nothing.csv", tmp_path / "out"), "nothing.csv"),
    ]:
        done = run(*words)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
        assert said in done.stderr.splitlines()[-1]
