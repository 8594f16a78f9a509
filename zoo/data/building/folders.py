"""A folder of files as samples: files that share a name up to the first dot belong together."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from zoo.data.building.sources import Item, Listing, Source, clean_key, extension_of
from zoo.errors import DataError, UsageError

__all__ = ["folder_source"]


def folder_source(
    root: Path, *, exclude: Path | None = None, label_from_folder: bool = False, skip: bool = False
) -> Source:
    """A folder of files; those that share folder and name up to the first dot are one sample.

    Hidden files and folders, files without an extension, and what is no file are left out and
    counted.

    Args:
        root: searched with all its folders; links to folders are not followed.
        exclude: left out: the folder of the shards.
        label_from_folder: each sample gets its folder's name as its class, a member `cls`.
        skip: leave out samples that cannot be read, instead of stopping.

    Raises:
        UsageError: there are no samples, or one has no class.
        DataError: a sample cannot be read; names it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if exclude is not None and exclude.resolve() == root.resolve():
        raise UsageError(f"{root}: the shards need a folder of their own")
    left_out: Counter[str] = Counter()
    groups = list(_groups(root, exclude and exclude.resolve(), left_out))
    classes: list[str] = []
    if label_from_folder:
        classes = sorted({PurePath(folder).name for folder, _ in groups})
        if "" in classes:
            raise UsageError(f"{root}: some files lie in no folder that could name their class")
    listing = Listing(skip)
    files = _Files(root.absolute(), groups, {name: i for i, name in enumerate(classes)})
    for number, item in enumerate(files):
        with listing.bad.expected(item.where):
            listing.add(number, item)
    source = listing.source(files, root, kind="folder", left_out=dict(+left_out))
    return replace(source, classes=classes)


def _groups(
    root: Path, exclude: Path | None, left_out: Counter[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(folder, names of the files of one sample), sorted."""
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
            reason = _unfit(here / name)
            if reason:
                left_out[reason] += 1
            else:
                samples.setdefault(name.partition(".")[0], []).append(name)
        relative = here.relative_to(root).as_posix()
        for stem in sorted(samples):
            yield ("" if relative == "." else relative), tuple(samples[stem])


def _unfit(path: Path) -> str | None:
    """Why a file of a folder is no member of a sample."""
    if path.name.startswith("."):
        return "hidden"
    if not extension_of(path.name):
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
    groups: Sequence[tuple[str, tuple[str, ...]]]
    labels: Mapping[str, int]

    def part(self, ids: NDArray[np.int64]) -> "_Files":
        return replace(self, groups=[self.groups[i] for i in ids.tolist()])

    def __iter__(self) -> Iterator[Item]:
        for folder, names in self.groups:
            stem = str(PurePath(folder, names[0].partition(".")[0]))
            members: list[tuple[str, bytes | Path]] = [
                (extension_of(name), self.root / folder / name) for name in names
            ]
            if self.labels:
                members.append(("cls", str(self.labels[PurePath(folder).name]).encode()))
            yield Item(stem, clean_key(stem), tuple(members))
