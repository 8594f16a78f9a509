"""The cache of shards: parts resumed, shared by processes, bounded, and safe to read on."""

import os
import pickle
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from data.file_server import CONTENT, MB, SHA256, content_of

from zoo.data.remote import cache as caching
from zoo.data.remote.cache import ShardCache
from zoo.data.remote.store import (
    stat_remote,
)
from zoo.errors import StorageError, UsageError

pytestmark = pytest.mark.usefixtures("quick")


def test_a_part_that_does_not_fit_is_fetched_anew(server, cache):
    """What a power cut may leave: the length is right, the bytes are not."""
    file = replace(stat_remote(server.url()), sha256=SHA256)
    cache.open(file).close()
    [shard] = cache.folder.iterdir()
    shard.unlink()
    shard.with_suffix(".part").write_bytes(bytes(MB))
    assert content_of(cache, file) == CONTENT
    assert server.gets == [None, f"bytes={MB}-", None]


def test_a_part_that_only_lacks_its_name_is_not_fetched(server, cache):
    file = stat_remote(server.url())
    with cache.open(file) as copy:
        copy.path.rename(copy.path.with_suffix(".part"))
    assert content_of(cache, file) == CONTENT
    assert server.gets == [None]


def test_a_cut_copy_is_fetched_anew(server, cache):
    file = stat_remote(server.url())
    with cache.open(file) as copy:
        os.truncate(copy.path, 1000)
    assert content_of(cache, file) == CONTENT


CHILD = """
import hashlib, sys
from pathlib import Path
from zoo.data.remote.cache import ShardCache
from zoo.data.remote.store import stat_remote
with ShardCache(Path(sys.argv[2]), 1 << 30).open(stat_remote(sys.argv[1])) as copy:
    print(hashlib.sha256(copy.path.read_bytes()).hexdigest(), flush=True)
    if len(sys.argv) > 3:
        sys.stdin.read()
"""


def start_child(server, cache, *more):
    pytest.importorskip("aiohttp")  # the child could only say that it is missing
    command = [sys.executable, "-c", CHILD, server.url(), str(cache.folder), *more]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cache.folder.parent
    )


def size_of_part(cache):
    return sum(path.stat().st_size for path in cache.folder.glob("*.part"))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_downloads_are_resumed(server, cache):
    chance = random.Random(time.time_ns())
    server.pause = 0.005
    cuts = [chance.uniform(0.02, 0.3), chance.uniform(0.35, 0.6), chance.uniform(0.65, 0.9)]
    expected = [None]
    for cut in cuts:
        child = start_child(server, cache)
        wait_for(lambda cut=cut: size_of_part(cache) >= cut * len(CONTENT))
        child.kill()
        child.communicate()
        assert not [*cache.folder.glob("*.shard")]
        expected.append(f"bytes={size_of_part(cache)}-")
    server.pause = 0.0
    assert content_of(cache, stat_remote(server.url())) == CONTENT
    assert server.gets == expected


def test_processes_share_one_download(server, cache):
    server.pause = 0.005
    children = [start_child(server, cache) for _ in range(2)]
    assert [child.communicate()[0].strip() for child in children] == [SHA256] * 2
    assert [child.returncode for child in children] == [0, 0]
    assert server.gets == [None]


def test_threads_share_one_download(server, cache):
    server.pause = 0.001
    file, found = stat_remote(server.url()), []
    threads = [
        threading.Thread(target=lambda: found.append(content_of(cache, file))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4
    assert server.gets == [None]


def test_the_least_recently_used_goes_first(store, tmp_path):
    cache = ShardCache(tmp_path, limit_bytes=3 * MB)
    for name in "abcd":
        store.pipe_file(f"/{name}.tar", name.encode() * MB)
    files = {name: stat_remote(f"memory://{name}.tar") for name in "abcd"}
    paths = {}
    for name in "abcab":  # the order of last use: c, a, b
        with cache.open(files[name]) as copy:
            paths[name] = copy.path
        time.sleep(0.01)
    index = paths["c"].with_name(paths["c"].name + ".zidx")
    index.touch()
    cache.open(files["d"]).close()
    assert {name: path.exists() for name, path in paths.items()} == {"a": 1, "b": 1, "c": 0}
    assert not index.exists()


def test_files_in_use_stay(store, tmp_path, server):
    cache = ShardCache(tmp_path / "cache", limit_bytes=len(CONTENT) + MB)
    child = start_child(server, cache, "and stay")
    assert child.stdout.readline().strip() == SHA256
    [used] = cache.folder.iterdir()
    for name in "ab":
        store.pipe_file(f"/{name}.tar", name.encode() * MB)
    with cache.open(stat_remote("memory://a.tar")) as mine:
        cache.open(stat_remote("memory://b.tar")).close()  # above the limit: nothing may go
        assert used.exists()
        assert mine.path.exists()
    child.communicate()
    store.pipe_file("/c.tar", b"c" * MB)
    cache.open(stat_remote("memory://c.tar")).close()
    assert not used.exists()


def test_a_removed_file_can_be_read_on(store, cache):
    store.pipe_file("/a.tar", CONTENT)
    file = stat_remote("memory://a.tar")
    with cache.open(file) as copy, copy.path.open("rb") as reader:
        copy.path.unlink()
        assert content_of(cache, file) == CONTENT
        assert reader.read() == CONTENT


def test_stale_downloads_are_swept(store, cache):
    cache.folder.mkdir()
    old, new = cache.folder / f"{'0' * 64}.part", cache.folder / f"{'1' * 64}.part"
    for path, age in ((old, 8), (new, 6)):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age * 24 * 3600,) * 2)
    store.pipe_file("/a.tar", b"x")
    cache.open(stat_remote("memory://a.tar")).close()
    assert not old.exists()
    assert new.exists()


def test_limits(store, tmp_path, monkeypatch):
    store.pipe_file("/a.tar", bytes(MB))
    file = stat_remote("memory://a.tar")
    with pytest.raises(UsageError, match="more than the cache may hold"):
        ShardCache(tmp_path, limit_bytes=MB - 1).open(file)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "2 GiB")
    assert ShardCache() == ShardCache(tmp_path / "shards", 2 << 30)
    monkeypatch.setenv("ZOO_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match="such as 50 GiB"):
        ShardCache()
    disk = type(caching.shutil.disk_usage(tmp_path))(10 * MB, 9 * MB + 1, MB - 1)
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda path: disk)
    with pytest.raises(StorageError, match="are free"):
        ShardCache(tmp_path, limit_bytes=100 * MB).open(file)


def test_a_folder_that_cannot_be_written(store, tmp_path):
    store.pipe_file("/a.tar", b"x")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        ShardCache(tmp_path / "file" / "cache").open(stat_remote("memory://a.tar"))


def test_a_cache_crosses_processes(cache):
    assert pickle.loads(pickle.dumps(cache)) == cache
