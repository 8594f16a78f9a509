"""What people write for shards -> a list of shard names, and how many samples each is said to hold.

A folder, a brace list such as "shards/{00..63}.tar", a glob, one tar, a list of these; local or
remote (`https://`, `s3://`, `gs://`, `hf://`).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from zoo.data.remote.store import is_remote, list_remote, read_remote, shown
from zoo.data.shard.write import FORMAT, MANIFEST
from zoo.errors import DataError, UsageError

__all__ = ["ShardName", "Shards", "class_names", "list_shards"]

Shards = str | Path | Sequence[str | Path]
_MAX_MANIFEST = 1 << 30  # bytes
_WILD = "*?["


@dataclass(frozen=True, slots=True)
class ShardName:
    """A shard, and what the manifest beside it says of it, if there is one."""

    name: str  # a path or a URL
    samples: int | None = None
    bytes: int | None = None
    sha256: str | None = None

    @property
    def shown(self) -> str:
        """For messages: a URL without what may be secret."""
        return shown(self.name) if is_remote(self.name) else self.name

    @property
    def base(self) -> str:
        """The name without its folder."""
        return self.shown.rpartition("/")[2]


def list_shards(shards: Shards, *, manifests: bool = True) -> list[ShardName]:
    """Every shard, in the order given; names of a folder or a glob are sorted.

    Args:
        shards: what a person wrote.
        manifests: look for manifests beside the shards.

    Raises:
        UsageError: nothing is there.
        DataError: a manifest is damaged.
    """
    given = [shards] if isinstance(shards, str | Path) else shards
    names = [name for one in given for name in _expand(one)]
    if not names:
        raise UsageError("no shards given")
    if not manifests:
        return [ShardName(name) for name in names]
    known = {place: _manifest(place) for place in dict.fromkeys(map(_manifest_of, names))}
    return [_described(name, known[_manifest_of(name)]) for name in names]


def class_names(shards: Shards) -> list[str]:
    """What the numbers in `cls` members mean, as the manifest says; empty where none does.

    Raises:
        UsageError: nothing is there, or manifests differ in it.
        DataError: a manifest is damaged.
    """
    found: list[list[str]] = []
    for place in dict.fromkeys(_manifest_of(one.name) for one in list_shards(shards)):
        with _sound(place):
            names = [str(name) for name in _table(place).get("classes", ())]
        if names not in found:
            found.append(names)
    if len(found) > 1:
        raise UsageError(f"{shards}: their manifests number the classes in several ways")
    return found[0]


def _expand(given: str | Path) -> list[str]:
    text = str(given)
    if not is_remote(text) and Path(text).exists():
        return _folder(Path(text)) if Path(text).is_dir() else [text]
    try:
        names = list(braceexpand(text))
    except ValueError:
        raise UsageError(f"{text}: unbalanced braces in a list of shards") from None
    return [found for name in names for found in _glob(name)]


def _glob(name: str) -> list[str]:
    if is_remote(name):
        whole = name.endswith("/") or any(letter in name for letter in _WILD)
        found = list_remote(name) if whole else [name]
    elif any(letter in name for letter in _WILD):
        folder = Path(name).parent
        found = sorted(map(str, folder.glob(Path(name).name)))
    else:
        if not Path(name).is_file():
            raise UsageError(f"{name}: no such shard")
        found = [name]
    if not found:
        raise UsageError(f"{name}: no such shards")
    return found


def _folder(folder: Path) -> list[str]:
    found = sorted(
        str(path) for path in folder.iterdir() if path.name.endswith((".tar", ".tar.gz", ".tgz"))
    )
    if not found:
        raise UsageError(
            f"{folder}: no shards (*.tar) in this folder; zoo shards build {folder} OUT makes some"
        )
    return found


def _described(name: str, manifest: dict[str, ShardName]) -> ShardName:
    bare = ShardName(name)
    known = manifest.get(bare.base)
    return bare if known is None else replace(known, name=name)


def _manifest_of(name: str) -> str:
    """Where the manifest that lists a shard would be."""
    if not is_remote(name):
        folder, slash, _ = name.rpartition("/")
        return f"{folder}{slash}{MANIFEST}"
    path, mark, query = name.partition("?")
    return f"{path.rpartition('/')[0]}/{MANIFEST}{mark}{query}"


def _manifest(place: str) -> dict[str, ShardName]:
    """Rows of a manifest by name; none where there is no manifest of ours."""
    with _sound(place):
        return {str(row["name"]): _row(row) for row in _table(place).get("shards", ())}


def _table(place: str) -> dict[str, Any]:
    """A manifest; empty where there is none of ours."""
    table = json.loads(_bytes_of(place) or b"{}")
    is_ours = isinstance(table, dict) and table.get("format") == FORMAT
    return table if is_ours else {}


@contextmanager
def _sound(place: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{shown(place)}: damaged manifest ({error}); zoo shards index makes a new one"
        ) from None


def _row(row: dict[str, object]) -> ShardName:
    samples, size, sha256 = row["samples"], row["bytes"], row["sha256"]
    if not isinstance(samples, int) or not isinstance(size, int) or min(samples, size) < 0:
        raise ValueError("a count that is none")
    return ShardName(str(row["name"]), samples, size, str(sha256) or None)


def _bytes_of(place: str) -> bytes | None:
    if is_remote(place):
        return read_remote(place, most=_MAX_MANIFEST)
    path = Path(place)
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_MANIFEST:
        raise DataError(f"{place}: a manifest of more than 1 GiB")
    return path.read_bytes()
