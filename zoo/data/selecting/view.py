"""A view: some samples of a data set, some of them several times; itself a data set.

Saved as `name.view.npz` (the ids) and `name.view.toml` (what they are and where they come from);
the second is written last and holds the digest of the first.
"""

import hashlib
import tokenize
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from zoo.errors import DataError, IntegrityError, UsageError
from zoo.files import atomic_open, sha256_of, storage_errors, write_atomic
from zoo.registry.schema import Value, read, read_toml, to_table, to_toml

__all__ = ["View", "nested", "read_view", "write_view"]

_SUFFIX = ".view.toml"
_DAMAGE = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, tokenize.TokenError)
_DTYPES: dict[str, np.dtype[np.generic]] = {"ids": np.dtype("<u8"), "repeats": np.dtype("u1")}


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Samples of a data set, in the order of their ids.

    Attributes:
        ids: (n,) uint64, ascending, each once.
        repeats: (n,) uint8, at least 1: how often each appears; once when None.
        parents: digests of what it was made from; the first is the data set that `ids` counts in.
        parameters: how it was chosen.
        seed: of the chance in it.
        counts: how many samples were considered, kept, without a score, and the like.
        kept: share that was kept, by group.
    """

    ids: NDArray[np.uint64]
    repeats: NDArray[np.uint8] | None = None
    parents: tuple[str, ...] = ()
    parameters: Mapping[str, Value] = field(default_factory=dict)
    seed: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids, repeats = self.ids, self.repeats
        if ids.ndim != 1 or ids.dtype != np.uint64 or not ids.size:
            raise ValueError("a view needs at least one id, uint64, in one dimension")
        if (ids[1:] <= ids[:-1]).any():
            raise ValueError("the ids of a view must ascend, each once")
        if repeats is not None and (
            repeats.shape != ids.shape or repeats.dtype != np.uint8 or not repeats.all()
        ):
            raise ValueError("a view needs one repeat of at least 1, uint8, for each id")

    def __len__(self) -> int:
        return len(self.ids) if self.repeats is None else int(self._ends[-1])

    def map(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in the view, below its length -> ids in its first parent."""
        index = np.asarray(positions)
        if self.repeats is not None:
            index = np.searchsorted(self._ends, index, side="right")
        return self.ids[index].astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of which samples of which data set; how they were chosen does not matter."""
        digest = hashlib.sha256("".join(self.parents[:1]).encode())
        digest.update(self.ids.astype(_DTYPES["ids"], copy=False).tobytes())
        digest.update(b"" if self.repeats is None else self.repeats.tobytes())
        return digest.hexdigest()

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        assert self.repeats is not None
        return np.cumsum(self.repeats, dtype=np.int64)


def nested(outer: View, inner: View) -> View:
    """A view of a view as a view of what the outer one is a view of.

    Args:
        outer: a view of a data set.
        inner: a view of `outer`: its ids are positions there.

    Raises:
        UsageError: `inner` is of something else, or a sample would appear more than 255 times.
    """
    if inner.parents and inner.parents[0] != outer.fingerprint:
        raise UsageError(
            f"the inner view is of {inner.parents[0][:12]}, not of {outer.fingerprint[:12]}: "
            "nest it into the view that it was made from"
        )
    if inner.ids[-1] >= len(outer):
        raise UsageError(
            f"the inner view names position {inner.ids[-1]} of a view of {len(outer)} samples: "
            "nest it into the view that it was made from"
        )
    ids, repeats = np.unique(outer.map(inner.map(np.arange(len(inner)))), return_counts=True)
    if repeats.max() > np.iinfo(np.uint8).max:
        raise UsageError(f"the nested view has a sample {repeats.max()} times: 255 is the most")
    return View(
        ids=ids.astype(np.uint64),
        repeats=repeats.astype(np.uint8) if repeats.max() > 1 else None,
        parents=(*outer.parents[:1], outer.fingerprint, inner.fingerprint),
        parameters={"outer": dict(outer.parameters), "inner": dict(inner.parameters)},
        seed=inner.seed,
        counts=inner.counts,
        kept=inner.kept,
    )


@dataclass(frozen=True, kw_only=True)
class _Card:
    """What the TOML of a view holds."""

    version: Literal[1] = 1
    sha256: str
    parents: tuple[str, ...]
    seed: int
    groups: tuple[str, ...]
    kept: tuple[float, ...]
    counts: dict[str, int]
    parameters: dict[str, Value]


def write_view(view: View, path: Path) -> None:
    """Saves a view as `path`, which ends in .view.toml, and the .npz beside it.

    Raises:
        UsageError: the name ends otherwise, or the view has no parents.
        StorageError: it could not be written; there is then no view of that name.
    """
    arrays = _arrays_beside(path)
    if not view.parents:
        raise UsageError(f"{path}: say which data set the view is of: replace(view, parents=...)")
    with storage_errors(path):
        path.unlink(missing_ok=True)  # never a card beside another view's ids
    ids = view.ids.astype(_DTYPES["ids"], copy=False)
    with atomic_open(arrays) as file:
        if view.repeats is None:
            np.savez(file, ids=ids)
        else:
            np.savez(file, ids=ids, repeats=view.repeats)
    card = _Card(
        sha256=sha256_of(arrays),
        parents=view.parents,
        seed=view.seed,
        groups=tuple(view.kept),
        kept=tuple(view.kept.values()),
        counts=dict(view.counts),
        parameters=dict(view.parameters),
    )
    write_atomic(path, to_toml(to_table(card)) + "\n")


def read_view(path: Path) -> View:
    """A view from its .view.toml.

    Raises:
        ConfigError: the TOML does not fit.
        IntegrityError: the ids are not the ones that were written.
        DataError: the file of ids cannot be read or holds something else.
    """
    arrays = _arrays_beside(path)
    card = read(_Card, read_toml(path), where=str(path))
    try:
        with arrays.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != card.sha256:
                raise IntegrityError(
                    f"{arrays}: expected sha256 {card.sha256}, found {found}: make the view again"
                )
            ids, repeats = _load(file)
        return View(
            ids=ids.astype(np.uint64, copy=False),
            repeats=repeats,
            parents=card.parents,
            parameters=card.parameters,
            seed=card.seed,
            counts=card.counts,
            kept=dict(zip(card.groups, card.kept, strict=True)),
        )
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{arrays}: cannot read it ({reason})", code="IO") from None
    except _DAMAGE as error:
        raise DataError(f"{arrays}: not a view: {error}") from None


def _arrays_beside(path: Path) -> Path:
    if not path.name.endswith(_SUFFIX):
        raise UsageError(f"{path}: the name of a view ends in {_SUFFIX}")
    return path.with_suffix(".npz")


def _load(file: IO[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint8] | None]:
    with zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = [info.filename.removesuffix(".npy") for info in infos]
        if names not in (["ids"], ["ids", "repeats"]):
            raise ValueError(f"it holds {names}")
        for info, name in zip(infos, names, strict=True):
            _check_size(archive, info, _DTYPES[name])
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return loaded["ids"], loaded["repeats"] if len(names) == 2 else None


def _check_size(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, wanted: np.dtype[np.generic]
) -> None:
    """Refuses what would take more memory than it has bytes on disk."""
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(f"{info.filename} is compressed")
    with archive.open(info) as member:
        if npy.read_magic(member) != (1, 0):
            raise ValueError(f"{info.filename} is of an unknown version")
        shape, _, dtype = npy.read_array_header_1_0(member)
        header = member.tell()
    if len(shape) != 1 or dtype != wanted or header + shape[0] * wanted.itemsize != info.file_size:
        raise ValueError(f"{info.filename} is not {wanted} in one dimension")
