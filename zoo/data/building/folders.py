"""A folder of files as samples: files that share a name up to the first dot belong together."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.building.sources import Item, Listing, Source, clean_key, extension_of
from zoo.errors import DataError, UsageError

__all__ = ["folder_source"]


def folder_source(
    root: Path,
    *,
    exclude: Path | None = None,
    label_from_folder: bool = False,
    skip: bool = False,
    parts: Set[str] = frozenset(),
) -> Source:
    """A folder of files; those that share folder and name up to the first dot are one sample.

    Hidden files and folders, files without an extension, and what is no file are left out and
    counted.

    Args:
        root: searched with all its folders; links to folders are not followed.
        exclude: left out: the folder of the shards.
        label_from_folder: each sample gets its folder's name as its class, a member `cls`.
        skip: leave out samples that cannot be read, instead of stopping.
        parts: files with these extensions are one sample with all others of their folder that have
            one of them; its members are numbered.

    Raises:
        UsageError: there are no samples, or one has no class.
        DataError: a sample cannot be read; names it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if exclude is not None and exclude.resolve() == root.resolve():
        raise UsageError(f"{root}: the shards need a folder of their own")
    left_out: Counter[str] = Counter()
    groups = list(_groups(root, exclude and exclude.resolve(), left_out, parts))
    classes: list[str] = []
    if label_from_folder:
        classes = sorted({PurePath(group.folder).name for group in groups})
        if "" in classes:
            raise UsageError(f"{root}: some files lie in no folder that could name their class")
    listing = Listing(skip)
    files = _Files(root.absolute(), groups, {name: i for i, name in enumerate(classes)})
    for number, item in enumerate(files):
        with listing.bad.expected(item.where):
            listing.add(number, item)
    source = listing.source(files, root, kind="folder", left_out=dict(+left_out))
    return replace(source, classes=classes)


class _Group(NamedTuple):
    """The files of one sample; with no stem they are all parts of it."""

    folder: str
    stem: str
    names: tuple[str, ...]


def _groups(
    root: Path, exclude: Path | None, left_out: Counter[str], parts: Set[str]
) -> Iterator[_Group]:
    """Every sample's files, sorted."""
    for folder, inner, files in os.walk(root, onerror=_refuse):
        here = Path(folder)
        hidden = {name for name in inner if name.startswith(".")}
        ours = {
            name for name in inner if exclude is not None and (here / name).resolve() == exclude
        }
        linked = {name for name in inner if (here / name).is_symlink()}
        left_out.update(hidden=len(hidden), shards=len(ours), linked_folder=len(linked - hidden))
        inner[:] = sorted(set(inner) - hidden - ours - linked)
        samples: dict[str, list[str]] = {}
        for name in sorted(files):
            reason, is_part = _unfit(here / name, parts), extension_of(name) in parts
            if reason:
                left_out[reason] += 1
            else:
                samples.setdefault("" if is_part else name.partition(".")[0], []).append(name)
        relative = here.relative_to(root).as_posix()
        for stem in sorted(samples):
            yield _Group("" if relative == "." else relative, stem, tuple(samples[stem]))


def _unfit(path: Path, parts: Set[str]) -> str | None:
    """Why a file of a folder is no member of a sample."""
    if path.name.startswith("."):
        return "hidden"
    if not extension_of(path.name) and "" not in parts:
        return "no_extension"
    try:
        mode = path.stat().st_mode
    except OSError:  # is told when the sample is listed
        return None
    return None if stat.S_ISREG(mode) else "no_file"


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot read it ({error.strerror})", code="IO") from None


@dataclass(frozen=True, slots=True)
class _Files:
    """Samples of a folder."""

    root: Path
    groups: Sequence[_Group]
    labels: Mapping[str, int]

    def part(self, ids: NDArray[np.int64]) -> "_Files":
        return replace(self, groups=[self.groups[i] for i in ids.tolist()])

    def __iter__(self) -> Iterator[Item]:
        for folder, stem, names in self.groups:
            where = str(PurePath(folder, stem)) if folder or stem else self.root.name
            members: list[tuple[str, bytes | Path]] = [
                (
                    extension_of(name) if stem else f"{number:05}.{extension_of(name) or 'part'}",
                    self.root / folder / name,
                )
                for number, name in enumerate(names)
            ]
            if self.labels:
                members.append(("cls", str(self.labels[PurePath(folder).name]).encode()))
            yield Item(where, clean_key(where), tuple(members))
