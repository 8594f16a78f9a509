"""Files of a repository on the Hugging Face Hub: of one commit, verified, asked for once.

huggingface_hub does the transport: cache, tokens, resuming within a call, HF_ENDPOINT. It compares
only sizes, so digests are compared here, at every use. What a branch stood for when it was first
asked for is recorded beside zoo's other caches: the same name gives the same weights tomorrow, and
a file that is there costs no request.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.hub.client import UnreachableError, api, is_offline, patiently

from zoo.errors import IntegrityError, StorageError, UsageError, ZooError
from zoo.files import cache_folder, sha256_once, storage_errors, write_atomic

__all__ = ["Pinned", "RemoteFile", "fetch", "git_sha1", "is_commit", "pinned"]

_log = logging.getLogger("zoo")
_DEFAULT = "main"  # the branch that a repository shows


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the Hub says of one file: the digest of its bytes, or git's where it keeps no other."""

    size: int
    sha256: str | None = None
    git_sha1: str | None = None


@dataclass(frozen=True, slots=True)
class Pinned:
    """One commit of a repository."""

    repo: str
    commit: str  # 40 hex digits
    files: Mapping[str, RemoteFile]


def is_commit(revision: str) -> bool:
    """Whether a revision can never mean something else."""
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def pinned(repo: str, revision: str | None = None) -> Pinned:
    """What a revision stands for, from the record or, the first time, from the Hub.

    Args:
        repo: ORG/NAME.
        revision: a commit, which is asked for once; a branch or tag, which is asked for each time
            while the Hub can be reached; by default what the main branch was when first asked for.

    Raises:
        UsageError: no such repository or revision, or it is not open to this user.
        ZooError: the Hub cannot be reached and nothing is recorded.
    """
    record = _Record(repo)
    known = record.find(revision or _DEFAULT)
    if known is not None and (revision is None or is_commit(revision)):
        return known
    try:
        found = _asked(repo, revision)
    except UnreachableError:
        if known is None:
            raise
        _log.warning("%s: the Hub does not answer; %s as recorded", repo, revision)
        return known
    record.add(revision or _DEFAULT, found)
    return found


def fetch(source: Pinned, names: Sequence[str], digests: Mapping[str, str] | None = None) -> Path:
    """The local folder that holds these files of a commit, whole and verified.

    Args:
        source: the commit.
        names: paths in the repository; nothing else is fetched.
        digests: SHA-256 by path, of a card; they count more than what the Hub says.

    Raises:
        UsageError: there is no such file, or it is not open to this user.
        IntegrityError: the bytes are not those that were published; nothing of them is kept.
        StorageError: the disk cannot take them.
        ZooError: the Hub cannot be reached.
    """
    folder = Path()
    for name in names:
        if name not in source.files:
            near = ", ".join(sorted(source.files)[:8])
            raise UsageError(f"{source.repo}: no file {name!r} at {source.commit[:12]}, but {near}")
        wanted = source.files[name]
        if digests and name in digests:
            wanted = RemoteFile(wanted.size, sha256=digests[name])
        path = _whole(source, name, wanted)
        folder = path.parents[len(Path(name).parts) - 1]
    return folder


def _whole(source: Pinned, name: str, wanted: RemoteFile) -> Path:
    """The file, fetched once more where the cache holds other bytes."""
    for again in (False, True):
        path = _downloaded(source, name)
        problem = _difference(path, wanted)
        if problem is None:
            return path
        with storage_errors(path):  # so that nobody takes it for the real one
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        if again or is_offline():
            raise IntegrityError(
                f"{source.repo}, {name}: {problem}; it was removed: try again, and if that does "
                "not help tell the authors"
            )
        _log.warning("%s, %s: %s; fetching it again", source.repo, name, problem)
    raise AssertionError


def _difference(path: Path, wanted: RemoteFile) -> str | None:
    try:
        size = path.stat().st_size
        if size != wanted.size:
            return f"{size} bytes instead of {wanted.size}"
        said = wanted.sha256 or wanted.git_sha1
        found = sha256_once(path) if wanted.sha256 else git_sha1(path.read_bytes())
    except OSError as error:
        raise StorageError(f"{path}: cannot read it ({error.strerror})") from None
    return None if said == found else f"sha256 {found[:12]} instead of {str(said)[:12]}"


def git_sha1(data: bytes) -> str:
    """Git's name of a file's content; the Hub keeps small files under it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _downloaded(source: Pinned, name: str) -> Path:
    cache = os.environ.get("HF_HUB_CACHE")  # as it is now: the client reads it once
    path = patiently(
        source.repo,
        lambda: api().hf_hub_download(source.repo, name, revision=source.commit, cache_dir=cache),
    )
    return Path(path)


def _asked(repo: str, revision: str | None) -> Pinned:
    info = patiently(repo, lambda: api().model_info(repo, revision=revision, files_metadata=True))
    if not info.sha or info.siblings is None:
        raise ZooError(f"{repo}: the Hub names no commit of it: try again")
    files = {
        file.rfilename: RemoteFile(
            size=file.size or 0,
            sha256=file.lfs.sha256 if file.lfs else None,
            git_sha1=None if file.lfs else file.blob_id,
        )
        for file in info.siblings
    }
    return Pinned(repo, info.sha, files)


class _Record:
    """What revisions of a repository stood for: one JSON file a repository."""

    def __init__(self, repo: str) -> None:
        self._repo = repo
        self._path = cache_folder() / "hub" / (repo.replace("/", "--") + ".json")

    def find(self, revision: str) -> Pinned | None:
        """The recorded commit; a damaged record counts as none."""
        commits, files = self._read()
        commit = commits.get(revision, revision)
        try:
            found = {name: RemoteFile(**facts) for name, facts in files[commit].items()}
        except (KeyError, TypeError, AttributeError):
            return None
        return Pinned(self._repo, commit, found)

    def add(self, revision: str, found: Pinned) -> None:
        """Keeps a commit; where the disk does not take it the Hub is asked again next time."""
        commits, files = self._read()
        commits[revision] = found.commit
        files[found.commit] = {name: asdict(file) for name, file in found.files.items()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps({"revisions": commits, "files": files}))
        except (OSError, StorageError) as error:
            _log.warning("%s: cannot keep what the Hub said (%s)", self._path, error)

    def _read(self) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
        """Revision -> commit, and commit -> the facts of its files."""
        try:
            table = json.loads(self._path.read_text())
            commits, files = table["revisions"], table["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}, {}
        is_table = isinstance(commits, dict) and isinstance(files, dict)
        return (commits, files) if is_table else ({}, {})
