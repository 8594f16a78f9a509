"""Files on remote stores: which there are, which version, and their bytes, through fsspec.

What cannot be trusted to be one version of a file is refused or read anew.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from zoo.data.remote.retry import AbsentError, ForbiddenError, retried, shown
from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

__all__ = [
    "RemoteFile",
    "changed",
    "is_remote",
    "list_remote",
    "open_remote",
    "read_remote",
    "shown",
    "stat_remote",
    "unchanged",
]

_PACKAGES = {
    "https": "'zoo[remote]'",
    "http": "'zoo[remote]'",
    "s3": "s3fs",
    "gs": "gcsfs",
    "hf": "'zoo[hub]'",
    "memory": "fsspec",
}
_MARKS = ("ETag", "etag", "blob_id", "created")  # what stores call the mark of a version
_BLOCK = 8 << 20  # bytes of one request where each request is for a range
_BUFFER = 1 << 20  # bytes that a stream holds; lost when its connection breaks
_CONNECT, _SILENCE = 30, 60  # seconds until a server that does not answer counts as gone


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One version of a file: what a store or a manifest tells about it."""

    url: str = field(repr=False)  # may hold a token
    size: int | None = None  # bytes
    etag: str | None = None  # changes with the content; W/... where it may miss a change
    sha256: str | None = None  # hex, of the content


def is_remote(name: str) -> bool:
    """Whether `name` is the URL of a store, and not a local path.

    Raises:
        UsageError: it has a scheme that is not read: `pipe:` would run a program, `file:` is a
            path. A local name that looks so is written with ./ before it.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", name)
    if scheme is None and "://" not in name:
        return False
    found = scheme[1] if scheme else ""
    if found not in _PACKAGES or not re.fullmatch(rf"{found}://[^/]+(/((?!::).)*)?", name):
        raise UsageError(
            f"'{found}:' is no address that shards are read from; give a path (./ before a name "
            "with a colon) or one of https://, http://, s3://, gs://, hf://"
        )
    try:
        _ = urlsplit(name).port if found.startswith("http") else None
    except ValueError:
        raise UsageError(
            f"'{found}:' is followed by no valid address; write its special characters as %XX"
        ) from None
    return True


def list_remote(pattern: str) -> list[str]:
    """URLs of a folder's tars ("s3://bucket/folder/"), of a glob's matches, or of one file.

    Args:
        pattern: a URL, its braces expanded. On http(s), where a folder is a page with links, only
            the last part may hold * and [].

    Returns:
        URLs, sorted. One file comes back as it is, whether it exists or not.

    Raises:
        UsageError: nothing is there, or it may not be read.
        DataError: the store does not answer, with code IO.
    """
    scheme = _scheme(pattern)
    pattern = f"{pattern}*.tar" if pattern.endswith("/") else pattern
    web = scheme.startswith("http")
    path = urlsplit(pattern).path if web else pattern
    if not re.search(r"[*[]" if web else r"[*?[]", path):
        return [pattern]
    found = retried(pattern, lambda: (_list_page if web else _glob)(pattern))
    if not found:
        raise UsageError(f"{shown(pattern)}: no shard is there")
    return sorted(found)


def stat_remote(url: str) -> RemoteFile:
    """Size and version of a file, by one small request or from a listing that was just made.

    Raises:
        UsageError: there is no such file, or it may not be read.
        DataError: the store does not answer, with code IO.
    """
    facts = retried(url, lambda: _filesystem(url).info(url))
    if facts.get("type") == "directory":
        raise UsageError(f"{shown(url)}: is a folder: write / at its end")
    etag = next((str(facts[mark]) for mark in _MARKS if facts.get(mark)), None)
    if etag is None and facts.get("Last-Modified"):
        etag = f"W/{facts['Last-Modified']}"  # whole seconds: two versions may share one
    sha256 = getattr(facts.get("lfs"), "sha256", None)  # the Hub knows it
    return RemoteFile(url, facts.get("size"), etag, sha256)


def unchanged(file: RemoteFile) -> bool:
    """Whether the store still has this version.

    Raises:
        UsageError, DataError: as `stat_remote`.
    """
    if _scheme(file.url).startswith("http"):
        return True  # `open_remote` has seen it in the answer's header
    _filesystem(file.url).invalidate_cache()
    now = stat_remote(file.url)
    return (now.size, now.etag) == (file.size, file.etag or now.etag)


def changed(file: RemoteFile) -> DataError:
    """The error for a file that is not the version that was asked for."""
    return DataError(
        f"{shown(file.url)}: has changed on the store since it was listed; start again to read the "
        "new version",
        code="IO",
    )


def read_remote(url: str, *, most: int = 64 << 20) -> bytes | None:
    """A small file, such as a manifest.

    Args:
        url: of the file.
        most: bytes that it may have.

    Returns:
        Its content; None where there is none, or where the store does not tell (status 403).

    Raises:
        DataError: it is larger, with code TOO_LARGE; the store does not answer, with code IO.
    """

    def read(file: RemoteFile) -> bytes:
        content = bytearray()
        with open_remote(file) as (_, pieces):
            for piece in pieces:
                content += piece
                if len(content) > most:
                    break
        return bytes(content)

    try:
        file = stat_remote(url)
        small = file.size is None or file.size <= most
        content = retried(url, lambda: read(file)) if small else b""
    except (AbsentError, ForbiddenError):
        return None
    if not small or len(content) > most:
        raise DataError(f"{shown(url)}: larger than {most:,} bytes", code="TOO_LARGE")
    return content


@contextmanager
def open_remote(file: RemoteFile, start: int = 0) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The content from byte `start` on, in pieces of a few megabytes; one try.

    Yields:
        Where the pieces begin: `start`, or 0 where the store sends only whole files; the pieces.

    Raises:
        DataError: the file is not the version that `file` describes.
        Exception: whatever the store's package raises; see `retried`.
    """
    scheme, store = _scheme(file.url), _filesystem(file.url)
    if scheme.startswith("http"):
        with _http_stream(store, file, start) as (begin, stream):
            yield begin, iter(lambda: stream.read(_BUFFER), b"")
    elif scheme == "hf":  # one request for all, because the Hub counts them
        with store.open(file.url, "rb", block_size=0) as stream:
            stream.loc = start
            yield start, iter(lambda: stream.read(_BUFFER), b"")
    else:
        yield start, _blocks(store, file, start)


def _scheme(url: str) -> str:
    if not is_remote(url):
        raise UsageError(f"{url}: a local path, not an address")
    return url.partition("://")[0]


def _filesystem(url: str) -> "AbstractFileSystem":
    scheme = _scheme(url)
    try:
        import fsspec  # only who reads a store should pay for it

        return fsspec.filesystem(scheme, **(_http_options() if scheme.startswith("http") else {}))
    except ImportError:
        raise UsageError(
            f"{shown(url)}: a package is missing: pip install {_PACKAGES[scheme]}"
        ) from None


def _http_options() -> dict[str, object]:
    import aiohttp

    # A shard may take hours, only silence is an error; lengths count the bytes as they are stored.
    limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE)
    return {
        "client_kwargs": {"timeout": limits, "trust_env": True, "auto_decompress": False},
        "headers": {"Accept-Encoding": "identity"},
    }


def _glob(pattern: str) -> list[str]:
    """Matches in an object store, which gives names without the scheme."""
    scheme = _scheme(pattern)
    return [f"{scheme}://{name.lstrip('/')}" for name in _filesystem(pattern).glob(pattern)]


def _list_page(pattern: str) -> list[str]:
    """Matches among the links of a web page; fsspec's glob would take an error for no match."""
    folder, _, name = pattern.rpartition("/")
    if re.search(r"[*[]", urlsplit(folder).path):
        raise UsageError(f"{shown(pattern)}: only the last part of a web address may hold * or []")
    links = _filesystem(pattern).ls(f"{folder}/", detail=False)
    names = {link.removeprefix(f"{folder}/") for link in links if link.startswith(f"{folder}/")}
    return [f"{folder}/{link}" for link in names if "/" not in link and fnmatchcase(link, name)]


@contextmanager
def _http_stream(
    store: "AbstractFileSystem", file: RemoteFile, start: int
) -> Iterator[tuple[int, BinaryIO]]:
    """One answer to one request, checked to be of the right version before its bytes are read."""
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if file.etag and not file.etag.startswith("W/"):
            headers["If-Range"] = file.etag
    # Any size but 0 saves fsspec's own request for it; it is not used for anything else.
    with store.open(
        file.url, "rb", block_size=0, size=file.size or 1, headers=headers, read_bufsize=_BUFFER
    ) as stream:
        answer = stream.r
        mark = answer.headers.get("ETag")
        if file.etag and mark and not file.etag.startswith("W/") and mark != file.etag:
            raise changed(file)
        begin, length = _extent(answer.status, answer.headers)
        if begin not in (0, start) or (file.size is not None and length not in (None, file.size)):
            raise changed(file)
        yield begin, stream


def _extent(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """First byte of an answer, and bytes of the whole file where told."""
    partial = re.match(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range") or "")
    if status == 206 and partial:
        return int(partial[1]), None if partial[2] == "*" else int(partial[2])
    length = headers.get("Content-Length")
    return 0, int(length) if length else None


def _blocks(store: "AbstractFileSystem", file: RemoteFile, start: int) -> Iterator[bytes]:
    """One request for each block."""
    size = file.size or 0
    while start < size:
        block = store.cat_file(file.url, start=start, end=min(start + _BLOCK, size))
        if not block:
            return
        yield block
        start += len(block)
