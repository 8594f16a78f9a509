import hashlib
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.remote import cache as caching
from zoo.data.remote import retry
from zoo.data.remote import store as stores
from zoo.data.remote.cache import ShardCache
from zoo.data.remote.retry import shown
from zoo.data.remote.store import (
    RemoteFile,
    is_remote,
    list_remote,
    open_remote,
    read_remote,
    stat_remote,
)
from zoo.errors import DataError, IntegrityError, StorageError, UsageError

CONTENT = random.Random(5).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECRET = "hunter2"
MB = 1 << 20


class Server(ThreadingHTTPServer):
    """Serves one content under every name that ends in .tar; each GET takes one fault.

    Faults: a status, "reset" (half of the answer), "short" (fewer bytes than announced, politely),
    "whole" (no ranges), "change" (another version from now on).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges = CONTENT, '"v1"', True
        self.modified = None
        self.pause = 0.0  # seconds between pieces of 32 kB
        self.faults, self.gets, self.conditions, self.heads = deque(), [], [], 0

    def url(self, name="a.tar", user=""):
        return f"http://{user}127.0.0.1:{self.server_port}/s/{name}"

    def handle_error(self, request, client_address):
        pass  # clients are killed here


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _begin(self, status, length, **extra):
        self.send_response(status)
        names = {"ETag": self.server.etag, "Last-Modified": self.server.modified, **extra}
        for name, value in names.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _found(self):
        return self.path.partition("?")[0].endswith((".tar", ".json"))

    def do_HEAD(self):
        self.server.heads += 1
        self._begin(200 if self._found() else 404, len(self.server.content))

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.gets.append(asked)
        server.conditions.append(self.headers.get("If-Range"))
        if self.path.endswith("/"):
            page = "".join(f'<a href="{name}">x</a>' for name in ("b.tar", "a.tar", "c.txt", "../"))
            self._begin(200, len(page), Content_Type="text/html")
            self.wfile.write(page.encode())
            return
        fault = server.faults.popleft() if server.faults else None
        if isinstance(fault, int) or not self._found():
            self._begin(fault or 404, 0, Retry_After="0" if fault == 429 else None)
            return
        if fault == "change":
            server.etag, server.content = '"v2"', CONTENT[::-1]
        condition = self.headers.get("If-Range") in (None, server.etag)
        content, start = server.content, 0
        if asked and condition and server.ranges and fault != "whole":
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            told = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._begin(206, len(content) - start, Content_Range=told)
        else:
            self._begin(200, len(content))
        stop = (start + len(content)) // 2 if fault in ("reset", "short") else len(content)
        for at in range(start, stop, 32_768):
            self.wfile.write(content[at : min(at + 32_768, stop)])
            time.sleep(server.pause)
        if fault in ("reset", "short"):
            time.sleep(0.05)  # until the client has read it
            self.close_connection = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def store():
    """Files in fsspec's memory: what goes for S3 and GCS, too."""
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(retry, "_WAIT", 0.01)


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", limit_bytes=100 * MB)


def content_of(cache, file):
    with cache.open(file) as copy:
        return copy.path.read_bytes()


def test_a_download_is_one_get_and_then_none(server, cache):
    file = stat_remote(server.url())
    assert file == RemoteFile(server.url(), len(CONTENT), '"v1"')
    for _ in range(2):
        assert content_of(cache, file) == CONTENT
    assert server.gets == [None]
    assert server.heads == 1
    assert [path.suffix for path in cache.folder.iterdir()] == [".shard"]


def test_a_manifest_saves_the_question_for_the_version(server, cache):
    file = RemoteFile(server.url(), len(CONTENT), sha256=SHA256)
    assert content_of(cache, file) == CONTENT
    assert (server.heads, server.gets) == (0, [None])


def test_memory_store(store, cache):
    store.pipe_file("/b/a.tar", CONTENT)
    store.pipe_file("/b/empty.tar", b"")
    assert content_of(cache, stat_remote("memory://b/a.tar")) == CONTENT
    assert content_of(cache, stat_remote("memory://b/empty.tar")) == b""


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "short"])
def test_passing_trouble_passes(server, cache, fault):
    server.faults.extend([fault, fault])
    assert content_of(cache, stat_remote(server.url())) == CONTENT
    assert len(server.gets) == 3
    if isinstance(fault, str):  # goes on where it was cut; what aiohttp still held is lost
        starts = [int(asked[6:-1]) for asked in server.gets[1:]]
        assert 0 < starts[0] <= len(CONTENT) // 2 < starts[1] <= len(CONTENT) * 3 // 4


def test_a_server_without_ranges_starts_over(server, cache):
    server.faults.extend(["reset", "whole"])
    assert content_of(cache, stat_remote(server.url())) == CONTENT


def test_trouble_that_stays_is_one_line(server, cache):
    file = stat_remote(server.url() + f"?token={SECRET}")
    server.faults.extend([503] * 99)
    with pytest.raises(DataError, match=r"/s/a\.tar: cannot read it \(HTTP 503") as caught:
        cache.open(file)
    assert caught.value.code == "IO"
    assert len(server.gets) == 6
    assert "\n" not in str(caught.value)


def test_as_long_as_there_is_progress_it_goes_on(server, cache):
    server.faults.extend(["reset"] * 12)
    assert content_of(cache, stat_remote(server.url())) == CONTENT


def test_nobody_there():
    with Server() as server:
        pass
    with pytest.raises(DataError, match="cannot read it"):
        stat_remote(server.url())
    with pytest.raises(DataError, match="cannot read it"):
        list_remote(server.url(""))


@pytest.mark.parametrize(("status", "says"), [(403, "not allow"), (404, "no such"), (418, "418")])
def test_refusals_are_not_retried(server, cache, status, says):
    file = stat_remote(server.url())
    server.faults.append(status)
    with pytest.raises(UsageError, match=says):
        cache.open(file)
    assert len(server.gets) == 1


class NoCredentialsError(Exception):
    """As botocore calls it."""


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (NoCredentialsError(), UsageError, "wants credentials"),
        (PermissionError(SECRET), UsageError, "not allow"),
        (OSError(f"Forbidden: {SECRET}"), UsageError, "not allow"),  # as gcsfs puts it
        (ValueError(SECRET), UsageError, "not an address"),
        (OSError(SECRET), DataError, "OSError, after 5 retries"),
        (KeyError(SECRET), KeyError, SECRET),  # a mistake of ours
    ],
)
def test_what_stores_say(error, kind, says):
    def fail():
        raise error

    with pytest.raises(kind, match=says):
        retry.retried("s3://b/a", fail)


def test_missing_files(server, store):
    with pytest.raises(UsageError, match="no such file"):
        stat_remote(server.url("a.zip"))
    with pytest.raises(UsageError, match="no such file"):
        stat_remote("memory://b/a.tar")
    with pytest.raises(UsageError, match="no shard is there"):
        list_remote("memory://b/*.tar")
    assert read_remote(server.url("a.zip")) is None
    assert read_remote("memory://b/a.tar") is None
    store.pipe_file("/b/a.tar", b"x")
    with pytest.raises(UsageError, match="is a folder"):
        stat_remote("memory://b")


def test_versions_never_mix(server, cache):
    file = stat_remote(server.url())
    server.faults.extend(["reset", "change"])
    with pytest.raises(DataError, match="has changed"):
        cache.open(file)
    assert not [*cache.folder.glob("*.shard")]
    assert content_of(cache, stat_remote(server.url())) == CONTENT[::-1]


def test_versions_never_mix_where_bytes_carry_no_version(store, cache, monkeypatch):
    store.pipe_file("/b/a.tar", CONTENT)
    monkeypatch.setattr(stores, "_BLOCK", MB)
    cat_file = store.cat_file

    def change_after_first(path, start, end):
        block = cat_file(path, start=start, end=end)
        if start == 0:
            store.pipe_file("/b/a.tar", CONTENT[::-1])
        return block

    monkeypatch.setattr(store, "cat_file", change_after_first)
    with pytest.raises(DataError, match="has changed"):
        cache.open(stat_remote("memory://b/a.tar"))
    assert not [*cache.folder.iterdir()]


def test_blocks_that_were_read_are_not_read_again(store, cache, monkeypatch):
    store.pipe_file("/b/a.tar", CONTENT)
    monkeypatch.setattr(stores, "_BLOCK", MB)
    cat_file, starts = store.cat_file, []

    def fail_often(path, start, end):
        starts.append(start)
        if len(starts) % 2:
            raise ConnectionResetError
        return cat_file(path, start=start, end=end)

    monkeypatch.setattr(store, "cat_file", fail_often)
    assert content_of(cache, stat_remote("memory://b/a.tar")) == CONTENT
    assert starts == [0, 0, MB, MB, 2 * MB, 2 * MB]


def test_weak_marks_are_not_resumed(server, cache):
    server.etag, server.modified = None, "Wed, 21 Oct 2026 07:28:00 GMT"
    server.faults.append("reset")
    assert content_of(cache, stat_remote(server.url())) == CONTENT
    assert server.gets == [None, None]


def test_wrong_bytes(server, cache):
    file = replace(stat_remote(server.url()), sha256="0" * 64)
    with pytest.raises(IntegrityError, match=f"{SHA256}, not 0000"):
        cache.open(file)
    assert not [*cache.folder.iterdir()]


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


def test_a_server_that_tells_no_size(cache):
    with pytest.raises(DataError, match="does not tell its size"):
        cache.open(RemoteFile("memory://b/a.tar"))


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


def test_lists(server, store):
    assert list_remote(server.url("")) == [server.url("a.tar"), server.url("b.tar")]
    assert list_remote(server.url("b*")) == [server.url("b.tar")]
    assert list_remote(server.url("z.tar?x=1")) == [server.url("z.tar?x=1")]
    with pytest.raises(UsageError, match="last part"):
        list_remote(f"http://127.0.0.1:{server.server_port}/*/a.tar")
    for name in ("/b/2.tar", "/b/1.tar", "/b/note.txt", "/b/c/3.tar"):
        store.pipe_file(name, b"x")
    assert list_remote("memory://b/") == ["memory://b/1.tar", "memory://b/2.tar"]
    assert list_remote("memory://b/*/[0-3].tar") == ["memory://b/c/3.tar"]


def test_small_files(server, store):
    server.content = b"{}"
    assert read_remote(server.url("shards.json")) == b"{}"
    store.pipe_file("/m.json", b"12345")
    assert read_remote("memory://m.json", most=5) == b"12345"
    for url in ("memory://m.json", server.url("m.json")):
        with pytest.raises(DataError, match="larger than 1 bytes") as caught:
            read_remote(url, most=1)
        assert caught.value.code == "TOO_LARGE"


@pytest.mark.parametrize(
    "name",
    [
        *("pipe:cat x", "pipe:curl https://h/a.tar", "file:///etc/passwd", "file:x", "sftp://h/a"),
        *("simplecache::s3://b/a", "https://h/a::b", "HTTPS://h/a", "https:a", "https:///a"),
        *("github://a/b", "zip://a::https://h/b", "http://u:p?x@h/a", "-://x"),
    ],
)
def test_other_schemes_are_refused(name):
    for use in (is_remote, list_remote, stat_remote, read_remote):
        with pytest.raises(UsageError, match="address"):
            use(name)


def test_local_names():
    for name in ("a.tar", "/a/b.tar", "./pipe:x", "C:\\a.tar", "2024:1.tar", "a/b:c.tar", "../x"):
        assert not is_remote(name)
    for name in ("https://h/a", "http://[::1]:80/a", "s3://b/a", "gs://b/a", "hf://datasets/a/b/c"):
        assert is_remote(name)


def test_missing_packages(monkeypatch):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match="pip install s3fs"):
        stat_remote("s3://b/a")
    with pytest.raises(UsageError, match="pip install gcsfs"):
        list_remote("gs://b/")


@settings(deadline=None, max_examples=100, database=None)
@given(
    st.sampled_from(["", f"{SECRET}@", f"me:{SECRET}@", f"{SECRET}:@"]),
    st.sampled_from(["", "/", "/a b.tar", "/x@y/z.tar"]),
    st.sampled_from(["", f"?{SECRET}", f"?a={SECRET}@h/x", f"#{SECRET}", f"?a#b?{SECRET}"]),
)
def test_shown_hides_secrets(user, path, query):
    assert shown(f"https://{user}host:80{path}{query}") == f"https://host:80{path}"


def test_no_message_holds_a_secret(server, cache, caplog):
    server.faults.extend([503, 401, "reset"] + [503] * 6 + [404, "change"])
    url = server.url(user=f"me:{SECRET}@") + f"?token={SECRET}"
    file = stat_remote(url)
    messages = [repr(file), f"{file}"]
    caplog.set_level(logging.INFO, "zoo")
    for _ in range(4):
        with pytest.raises((UsageError, DataError)) as caught:
            cache.open(file)
        error = caught.value
        assert error.__cause__ is None
        assert error.__context__ is None or error.__suppress_context__
        messages.append(str(error))
    assert "trying again" in caplog.text
    assert SECRET not in caplog.text + "".join(messages)


def test_one_try_tells_where_it_begins(server):
    file = stat_remote(server.url())
    with open_remote(file, 1000) as (begin, pieces):
        assert (begin, b"".join(pieces)) == (1000, CONTENT[1000:])
    assert server.conditions == ['"v1"']
    server.faults.append("whole")
    with open_remote(file, 1000) as (begin, pieces):
        assert (begin, b"".join(pieces)) == (0, CONTENT)
