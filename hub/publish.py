"""A repository on the Hugging Face Hub from an exported encoder: all of it, or nothing.

Every step looks first at what is there, so that the same command continues after a kill at any
point and ends in the same state. One commit holds all files, and names its parent: of two people
who publish at once the second is told.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from zoo.hub.client import api, patiently
from zoo.hub.export import CONFIG, HUB, load_export
from zoo.hub.fetch import Pinned, RemoteFile, fetch, git_sha1, pinned
from zoo.hub.golden import elsewhere, fingerprint

from zoo.errors import IntegrityError, UsageError, WeightsError, ZooError
from zoo.files import sha256_of, write_atomic

__all__ = ["Parcel", "Published", "publish"]

_MAIN = "main"
_OF_THE_HUB = ".gitattributes"  # which every new repository has


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is sent: an exported encoder, and what people read beside it."""

    folder: Path
    pages: Mapping[str, bytes]  # README.md and its pictures

    @cached_property
    def config(self) -> dict[str, object]:
        """What the export says of itself."""
        table: dict[str, object] = json.loads((self.folder / CONFIG).read_text())
        return table

    @cached_property
    def files(self) -> dict[str, RemoteFile]:
        """Size and digests by path."""
        listed = self.config["files"]
        assert isinstance(listed, dict)
        found = {
            name: RemoteFile((self.folder / name).stat().st_size, sha256_of(self.folder / name))
            for name in (CONFIG, *listed)
        }
        for name, data in self.pages.items():
            found[name] = RemoteFile(len(data), _sha256(data))
        return dict(sorted(found.items()))

    def content(self, name: str) -> Path | bytes:
        """Where a file is, or what it holds."""
        return self.pages.get(name, self.folder / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where an encoder can be had from now on."""

    repo: str
    tag: str
    commit: str  # 40 hex digits
    files: Mapping[str, str]  # path -> SHA-256


def publish(
    parcel: Parcel, repo: str, *, tag: str, public: bool = False, record: Path | None = None
) -> Published:
    """Sends an encoder and proves that it comes back bit for bit.

    Args:
        parcel: what to send.
        repo: ORG/NAME; made, for its owner's eyes only, where it does not exist.
        tag: the version's name.
        public: show it to everybody, once all is proved.
        record: a JSON file that keeps what this returns.

    Raises:
        UsageError: the repository holds something else, or the tag other weights, or the Hub does
            not let this user in.
        WeightsError: a weight is NaN or infinite.
        IntegrityError: what comes back is not what was sent.
        ZooError: somebody else published meanwhile, or the Hub cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UsageError(f"{repo!r}: no name of a repository: write ORG/NAME")
    golden = proved(parcel.folder)
    _agree(golden, elsewhere(parcel.folder), str(parcel.folder))
    patiently(repo, lambda: api().create_repo(repo, private=True, exist_ok=True))
    commit = _tagged(repo, tag, parcel) or _sent(repo, tag, parcel)
    _tag(repo, tag, commit)
    with tempfile.TemporaryDirectory(prefix="zoo-") as cache:
        _agree(golden, elsewhere(f"{HUB}{repo}@{tag}", Path(cache)), f"{repo}@{tag}")
    digests = {name: str(file.sha256) for name, file in parcel.files.items()}
    done = Published(repo=repo, tag=tag, commit=commit, files=digests)
    if record is not None:
        write_atomic(record, json.dumps(asdict(done), indent=1) + "\n")
    if public:
        patiently(repo, lambda: api().update_repo_settings(repo, visibility="public"))
    pinned(repo, _MAIN)  # or `zoo.load` here would go on with what it knew before
    return done


def proved(folder: Path) -> dict[str, str]:
    """The fingerprint of an export whose files are whole and whose weights are numbers.

    Raises:
        UsageError, IntegrityError: as `load_export`.
        WeightsError: a weight is NaN or infinite.
    """
    encoder = load_export(folder)
    bad = [name for name, value in encoder.state_dict().items() if not value.isfinite().all()]
    if bad:
        raise WeightsError(
            f"{folder}: {len(bad)} tensors hold NaN or infinity ({bad[0]} is the first): nobody "
            "can use that; export an earlier checkpoint (zoo export --step)"
        )
    return fingerprint(encoder)


def _agree(wanted: Mapping[str, str], found: Mapping[str, str], where: str) -> None:
    differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if differing:
        raise IntegrityError(
            f"{where}: a fresh process finds other values: {', '.join(differing[:4])}; "
            "run the same command again, and if that does not help report it"
        )


def _tagged(repo: str, tag: str, parcel: Parcel) -> str | None:
    """The commit that already has this tag and these files."""
    commit = _tags(repo).get(tag)
    if commit is None:
        return None
    if differing := _differing(parcel, _tree(repo, commit)):
        raise UsageError(
            f"{repo}: tag {tag!r} exists and is something else ({', '.join(differing[:4])}); give "
            "another, such as --tag v2"
        )
    return commit


def _tags(repo: str) -> dict[str, str]:
    refs = patiently(repo, lambda: api().list_repo_refs(repo))
    return {ref.name: ref.target_commit for ref in refs.tags}


def _sent(repo: str, tag: str, parcel: Parcel) -> str:
    """The commit of the main branch that holds these files, made if need be."""
    head = _head(repo)
    there = _tree(repo, head)
    if not _differing(parcel, there):
        return head
    stale = _replaced(parcel, Pinned(repo, head, there))
    commit = patiently(repo, lambda: _commit(repo, tag, parcel, head, stale))
    if differing := _differing(parcel, _tree(repo, commit)):
        raise IntegrityError(
            f"{repo}: the Hub holds other bytes than were sent: {', '.join(differing[:4])}; run "
            "the same command again"
        )
    return commit


def _commit(repo: str, tag: str, parcel: Parcel, head: str, stale: list[str]) -> str:
    """Uploads, then the one commit; where the branch has moved on, that is an error."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    adding = [CommitOperationAdd(name, parcel.content(name)) for name in parcel.files]
    changes: list[CommitOperationAdd | CommitOperationDelete] = [*adding]
    changes += [CommitOperationDelete(name) for name in stale]
    try:
        api().preupload_lfs_files(repo, adding)
        message = f"{parcel.config['name']} {tag}, by zoo"
        made = api().create_commit(repo, changes, commit_message=message, parent_commit=head)
    except HfHubHTTPError as error:
        if error.response.status_code != 412:
            raise
        now = _head(repo)  # ours, where only the answer to it was lost
        if _differing(parcel, _tree(repo, now)):
            raise ZooError(
                f"{repo}: somebody else published there meanwhile; look at it, then run the same "
                "command again"
            ) from None
        return now
    return made.oid


def _replaced(parcel: Parcel, old: Pinned) -> list[str]:
    """Files of an earlier version that this one lacks.

    Raises:
        UsageError: the repository holds anything but an earlier version.
    """
    names = [name for name in old.files if name != _OF_THE_HUB]
    if not names:
        return []
    try:
        config = json.loads((fetch(old, [CONFIG]) / CONFIG).read_text())
        model, listed = config["zoo_format"] and config["name"], list(config["files"])
    except (UsageError, ValueError, KeyError, TypeError):
        model, listed = None, []
    if model != parcel.config["name"]:
        held = f"the model {model}" if model else ", ".join(names[:4])
        raise UsageError(f"{old.repo}: holds something else ({held}); choose another name")
    return [name for name in listed if name in old.files and name not in parcel.files]


def _tag(repo: str, tag: str, commit: str) -> None:
    patiently(repo, lambda: api().create_tag(repo, tag=tag, revision=commit, exist_ok=True))
    if _tags(repo).get(tag) != commit:
        raise ZooError(f"{repo}: somebody else made tag {tag!r} meanwhile; choose another one")


def _head(repo: str) -> str:
    info = patiently(repo, lambda: api().model_info(repo, revision=_MAIN))
    return str(info.sha)


def _tree(repo: str, commit: str) -> dict[str, RemoteFile]:
    from huggingface_hub.hf_api import RepoFile

    listed = patiently(repo, lambda: [*api().list_repo_tree(repo, recursive=True, revision=commit)])
    return {
        file.path: RemoteFile(
            size=file.size,
            sha256=file.lfs.sha256 if file.lfs else None,
            git_sha1=None if file.lfs else file.blob_id,
        )
        for file in listed
        if isinstance(file, RepoFile)
    }


def _differing(parcel: Parcel, there: Mapping[str, RemoteFile]) -> list[str]:
    """Files that the Hub lacks or holds with other bytes."""
    return [
        name
        for name, file in parcel.files.items()
        if name not in there or not _is_same(parcel.content(name), file, there[name])
    ]


def _is_same(content: Path | bytes, file: RemoteFile, there: RemoteFile) -> bool:
    if there.sha256 is not None:
        return file.sha256 == there.sha256
    data = content if isinstance(content, bytes) else content.read_bytes()
    return git_sha1(data) == there.git_sha1


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
