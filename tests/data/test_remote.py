"""Shards elsewhere: faults that pass and that stay, versions, lists, refusals, secrets."""

import logging
import sys
from dataclasses import replace

import pytest
from data.file_server import CONTENT, MB, SECRET, SHA256, Server, content_of
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.remote import retry
from zoo.data.remote import store as stores
from zoo.data.remote.retry import shown
from zoo.data.remote.store import (
    RemoteFile,
    is_remote,
    list_remote,
    open_remote,
    read_remote,
    stat_remote,
)
from zoo.errors import DataError, IntegrityError, UsageError

pytestmark = pytest.mark.usefixtures("quick")


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


def test_a_server_that_tells_no_size(cache):
    with pytest.raises(DataError, match="does not tell its size"):
        cache.open(RemoteFile("memory://b/a.tar"))


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
