"""What models there are: the cards of zoo and of whoever adds theirs.

Listing reads one JSON file, generated from zoo's own cards, and imports nothing heavy. A package
adds cards with an entry point of the group `zoo.cards` whose value is an importable package that
holds `*.toml` files; the variable ZOO_CARDS adds files, or folders of them. An architecture or an
objective of their own is named as `module:Class` in the card.

Names with a slash (`timm/NAME`) mean models of another library, which is asked when such a name or
pattern is; listings of everything leave them out.
"""

import fnmatch
import importlib
import json
import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from zoo.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from zoo.registry.card import Card

__all__ = [
    "Row",
    "card",
    "card_file",
    "find",
    "is_folder",
    "list_models",
    "own_card_files",
    "render_index",
    "rows",
]

ROOT = Path(__file__).parent
ENTRY_POINTS, VARIABLE = "zoo.cards", "ZOO_CARDS"
LIBRARIES = {
    "open-clip": "zoo.registry.open_clip_models",
    "timm": "zoo.registry.timm_models",
}
MODALITIES = ("vision", "volume", "audio", "tabular", "code")


class Row(NamedTuple):
    """One model, as listings show it; a dataclass would double the time that listing takes."""

    name: str
    family: str
    modality: str
    objective: str
    summary: str
    licence: str
    tags: tuple[str, ...]  # sets of weights
    default: bool  # whether the family's own name means this one
    path: str  # of the card; relative to the cards of zoo, absolute for other packages
    aliases: tuple[str, ...] = ()  # other names of this one


class Library(Protocol):
    """What a module of LIBRARIES has. A row's name says its tag where it is asked for with one."""

    def rows(self) -> tuple[Row, ...]:
        """Every model."""

    def find(self, name: str) -> tuple[Row, str | None]:
        """As `find`."""

    def card(self, name: str) -> "Card":
        """As `card`."""


def list_models(
    pattern: str = "*",
    *,
    modality: str | None = None,
    objective: str | None = None,
    pretrained: bool = False,
    tags: bool = False,
) -> list[str]:
    """Names of models, in natural order.

    Args:
        pattern: a glob such as "bird*".
        modality: only this one.
        objective: only models whose recipe uses it.
        pretrained: only models with weights, published or trained here on first use.
        tags: list every set of weights as `name.tag` instead of one name a model.

    Raises:
        UnknownNameError: there is no such modality or objective.
    """
    library = _library(pattern)
    everything = library.rows() if library else rows()
    if modality is not None and modality not in MODALITIES:
        raise UnknownNameError("modality", modality, MODALITIES)
    objectives = {row.objective for row in everything}
    if objective is not None and objective not in objectives:
        raise UnknownNameError("objective", objective, objectives)
    chosen = [
        row
        for row in everything
        if (modality is None or row.modality == modality)
        and (objective is None or row.objective == objective)
        and (row.tags or not (pretrained or tags))
    ]
    names = [
        name
        for row in chosen
        for name in ([f"{row.name}.{tag}" for tag in row.tags] if tags else [row.name])
        if fnmatch.fnmatchcase(name, pattern)
    ]
    return sorted(names, key=_natural)


def card(name: str) -> "Card":
    """The catalogue card of a model, a family, or `name.tag`.

    Raises:
        UnknownNameError: nothing is called that; suggests what is.
        ConfigError: the card is malformed.
    """
    if library := _library(name):
        return library.card(name)
    from zoo.registry.card import read_card

    return read_card(card_file(name))


def card_file(name: str) -> Path:
    """Where the card of a model lies.

    Raises:
        UnknownNameError: nothing is called that, or it is a model of another library.
    """
    if _library(name):
        raise UnknownNameError("card file", name, ())
    row, _ = find(name)
    return ROOT / "cards" / row.path


def find(name: str) -> tuple[Row, str | None]:
    """The row and the tag that a name means: a model, a family, or either with `.tag`."""
    if library := _library(name):
        return library.find(name)
    by_name = {known: row for row in rows() for known in (row.name, *row.aliases)}
    by_family = {row.family: row for row in rows() if row.default}
    base, _, tag = name.partition(".")
    row = by_name.get(base) or by_family.get(base)
    if row is None:
        known, hint = {*by_name, *by_family}, "zoo.list_models() shows all"
        if Path(name).is_dir():
            hint = f"for the folder of that name write './{name}'"
        elif name.endswith(".toml"):
            hint = f"{VARIABLE}={name} adds a card's models"
        raise UnknownNameError("model", name, known, hint)
    if tag and tag not in row.tags:
        said = "this model has no published weights" if not row.tags else ""
        raise UnknownNameError(f"weights of {row.name}", tag, row.tags, said)
    return row, tag or None


def is_folder(source: str | Path) -> bool:
    """Whether it means a place on the disk, and no name: a slash in it that no library explains."""
    if isinstance(source, Path):
        return True
    return source in (".", "..") or ("/" in source and _library(source) is None)


def _library(name: str) -> Library | None:
    prefix, slash, _ = name.partition("/")
    if not slash or prefix not in LIBRARIES:
        return None
    return cast("Library", importlib.import_module(LIBRARIES[prefix]))


@cache
def rows() -> tuple[Row, ...]:
    """Every model: zoo's from the index, then those of others.

    Raises:
        ConfigError: a card of theirs is missing or malformed, or two claim one name.
    """
    data = json.loads((ROOT / "index.json").read_text())
    lists = ("tags", "aliases")
    found = [Row(**(row | {key: tuple(row[key]) for key in lists})) for row in data]
    seen = {row.name: "zoo" for row in found}
    for origin, path in (*_named_card_files(), *_packaged_card_files()):
        for row in _rows_of(path, str(path)):
            if row.name in seen:
                raise ConfigError(f"{path}: model {row.name!r} exists already in {seen[row.name]}")
            seen[row.name] = origin
            found.append(row)
    return tuple(found)


def own_card_files() -> list[Path]:
    """Zoo's cards."""
    return sorted((ROOT / "cards").glob("*/*.toml"))


def render_index() -> str:
    """The content of index.json, from zoo's cards."""
    found = [
        row._asdict()
        for path in own_card_files()
        for row in _rows_of(path, path.relative_to(ROOT / "cards").as_posix())
    ]
    return json.dumps(found, indent=1) + "\n"


def _rows_of(path: Path, shown: str) -> Iterable[Row]:
    from zoo.registry.card import read_card

    one = read_card(path)
    for size in one.sizes:
        yield Row(
            name=f"{one.family}-{size}",
            family=one.family,
            modality=one.modality,
            objective=str(one.recipe.objective["name"]) if one.recipe else "",
            summary=one.summary,
            licence=one.licence.weights or "",
            tags=tuple(entry.tag for entry in one.weights_of(size)),
            default=size == one.default_size,
            path=shown,
            aliases=tuple(_aliases(one, size)),
        )


def _aliases(one: "Card", size: str) -> Iterable[str]:
    for other in one.aliases:
        yield f"{other}-{size}"
        if size == one.default_size:
            yield other


def _named_card_files() -> Iterable[tuple[str, Path]]:
    """Those of the environment, absolute: a process may change its folder."""
    for word in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        place = Path(word).absolute()
        files = sorted(place.glob("*.toml")) if place.is_dir() else [place]
        if not files:
            raise ConfigError(f"{VARIABLE}: {word}: no card (*.toml) lies there")
        yield from ((word, file) for file in files)


def _packaged_card_files() -> Iterable[tuple[str, Path]]:
    if not _any_entry_points():
        return
    from importlib import resources
    from importlib.metadata import entry_points

    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            folder = resources.files(entry.value)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"entry point {entry.name!r} of {ENTRY_POINTS}: cannot import {entry.value!r} "
                f"({error})"
            ) from None
        for item in sorted(folder.iterdir(), key=lambda item: item.name):
            if item.name.endswith(".toml"):
                yield entry.value, Path(str(item))


def _any_entry_points() -> bool:
    """Whether a package names the group at all: importlib.metadata takes 20 ms to say so."""
    mark = f"[{ENTRY_POINTS}]".encode()
    return any(
        mark in file.read_bytes()
        for place in sys.path
        for kind in ("dist-info", "egg-info")
        for file in Path(place or ".").glob(f"*.{kind}/entry_points.txt")
    )


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sorts vit-9 before vit-10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
