"""Plain WebDataset tars: write them whole, find every member once, read any sample with one pread.

A sample is the members of a shard that share a name up to the first dot; what follows is the
extension.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from braceexpand import braceexpand

from zoo.errors import DataError, UsageError
from zoo.files import atomic_open, sha256_of, storage_errors, sweep_temporary, write_atomic

__all__ = ["MANIFEST", "ShardSet", "write_shards"]

MANIFEST = "shards.json"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one sample lies in its shard."""

    key: str
    members: tuple[tuple[str, int, int], ...]  # extension, offset, size


class ShardSet:
    """Samples of several shards, numbered from 0 in the order of the shards."""

    def __init__(self, shards: str | Path | Sequence[str | Path]) -> None:
        """Opens shards and indexes their members.

        Args:
            shards: a folder, a brace list such as "shards/{00..63}.tar", a glob, one tar, or a
                list.

        Raises:
            UsageError: nothing is there.
            DataError: a shard is damaged; names it.
        """
        self._files: dict[int, int] = {}
        self.paths = _expand(shards)
        self._places: list[tuple[int, _Place]] = []
        for number, path in enumerate(self.paths):
            self._places += [(number, place) for place in _index(path)]
        if not self._places:
            raise UsageError(f"{shards}: the shards hold no samples")

    def __len__(self) -> int:
        return len(self._places)

    @property
    def fingerprint(self) -> str:
        """Digest of what is where: equal only for the same samples in the same order."""
        digest = hashlib.sha256()
        for number, place in self._places:
            digest.update(f"{self.paths[number].name}\0{place.key}\0{place.members}\n".encode())
        return digest.hexdigest()

    def describe(self, index: int) -> str:
        """Shard and key of a sample, for messages."""
        number, place = self._places[index]
        return f"{self.paths[number]}, sample {place.key!r}"

    def key(self, index: int) -> str:
        """The sample's key."""
        return self._places[index][1].key

    def read(self, index: int) -> dict[str, bytes]:
        """Every member of a sample by extension.

        Raises:
            DataError: the shard ends early or cannot be read.
        """
        number, place = self._places[index]
        start = min(offset for _, offset, _ in place.members)
        stop = max(offset + size for _, offset, size in place.members)
        try:
            data = os.pread(self._descriptor(number), stop - start, start)
        except OSError as error:
            raise DataError(f"{self.describe(index)}: cannot read it ({error.strerror})") from None
        if len(data) < stop - start:
            raise DataError(f"{self.describe(index)}: the shard ends early")
        return {
            extension: data[offset - start : offset - start + size]
            for extension, offset, size in place.members
        }

    def _descriptor(self, number: int) -> int:
        if number not in self._files:
            self._files[number] = os.open(self.paths[number], os.O_RDONLY)
        return self._files[number]

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": {}}  # descriptors do not cross processes

    def __del__(self) -> None:
        self.close()


def write_shards(
    samples: Iterable[tuple[str, Mapping[str, bytes]]],
    folder: str | Path,
    *,
    samples_per_shard: int = 10_000,
) -> int:
    """Writes `00000.tar`, ... and then shards.json; the same samples give the same bytes.

    Args:
        samples: (key, {extension: bytes}); keys without dots.
        folder: must not hold shards already.
        samples_per_shard: how many go into one tar.

    Returns:
        The number of samples.

    Raises:
        UsageError: there are no samples, or the folder is in use.
        StorageError: the disk is full or read-only; no file has its final name half-written.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists() or any(folder.glob("*.tar")):
        raise UsageError(f"{folder}: already holds shards; choose another folder or remove it")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sweep_temporary(folder)
    rows: list[dict[str, object]] = []
    iterator = iter(samples)
    item = next(iterator, None)
    while item is not None:
        path, count = folder / f"{len(rows):05d}.tar", 0
        with atomic_open(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
            while item is not None and count < samples_per_shard:
                _add(tar, *item)
                item, count = next(iterator, None), count + 1
        rows.append(
            {
                "name": path.name,
                "samples": count,
                "bytes": path.stat().st_size,
                "sha256": sha256_of(path),
            }
        )
    if not rows:
        raise UsageError(f"{folder}: there are no samples to write")
    total = sum(int(str(row["samples"])) for row in rows)
    manifest = {"format": "zoo-shards/1", "samples": total, "shards": rows}
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return total


def _add(tar: tarfile.TarFile, key: str, members: Mapping[str, bytes]) -> None:
    if not key or "." in Path(key).name or key.startswith(("/", "_")) or ".." in key:
        raise UsageError(f"sample key {key!r}: keys are relative names without dots")
    for extension, data in sorted(members.items()):
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size, info.mtime, info.mode = len(data), 0, 0o644  # an integer time keeps PAX away
        tar.addfile(info, io.BytesIO(data))


def _expand(shards: str | Path | Sequence[str | Path]) -> list[Path]:
    if isinstance(shards, str | Path):
        path = Path(shards)
        if path.is_dir():
            paths = sorted(path.glob("*.tar"))
            if not paths:
                raise UsageError(f"{path}: no shards (*.tar) in this folder")
            return paths
        shards = [path] if path.exists() else _names(str(shards))
    paths = [Path(shard) for shard in shards]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: no such shard")
    if not paths:
        raise UsageError("no shards given")
    return paths


def _names(pattern: str) -> list[str | Path]:
    names: list[str | Path] = []
    for name in braceexpand(pattern):
        if any(letter in name for letter in "*?["):
            parent = Path(name).parent
            found = sorted(parent.glob(Path(name).name))
            if not found:
                raise UsageError(f"{name}: no such shards")
            names += found
        else:
            names.append(name)
    return names


def _index(path: Path) -> list[_Place]:
    """Samples of one shard; members of a key may lie apart."""
    grouped: dict[str, list[tuple[str, int, int]]] = {}
    try:
        size = path.stat().st_size
        with tarfile.open(path, mode="r:") as tar:
            for info in tar:
                folder, _, base = info.name.rpartition("/")
                stem, dot, extension = base.partition(".")
                if not info.isreg() or not dot or not stem or info.name.startswith("__"):
                    continue
                if info.offset_data + info.size > size:
                    raise DataError(f"{path}: truncated inside {info.name!r}")
                key = f"{folder}/{stem}" if folder else stem
                member = (extension.lower(), info.offset_data, info.size)
                grouped.setdefault(key, []).append(member)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from None
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a readable tar ({error})") from None
    return [_Place(key, tuple(members)) for key, members in grouped.items()]
