"""zoo shards build."""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.corpus import Unit
    from zoo.data.building.sources import Source
    from zoo.modalities.contracts import Codec

_FOR_TABLES = ("members", "key", "label", "allow_outside")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


class _Options(TypedDict):
    members: tuple[str, ...]
    key: str | None
    allow_outside: bool
    label_from_folder: bool
    label: str | None
    shard_size: str
    samples_per_shard: int
    unit: "Unit | None"
    similar: float | None
    shuffle: bool
    seed: int
    modality: str | None
    spacing: tuple[float, float, float] | None
    licence: str | None
    skip_bad: bool
    engine: str
    workers: int | None
    quiet: bool


@click.command(
    epilog="Example:  zoo shards build pairs.parquet shards -m jpg=@path -m txt=caption --shuffle"
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    *("-m", "--member", "members"),
    multiple=True,
    metavar="EXT=COLUMN",
    help="A member of each row's sample: its text in COLUMN, or the file named in @COLUMN.",
)
@click.option("--key", help="The column of the keys; else the row's number.")
@click.option("--allow-outside", is_flag=True, help="A table may name files outside its folder.")
@click.option("--label-from-folder", is_flag=True, help="A file's folder is its class.")
@click.option("--label", metavar="COLUMN", help="The column that names each row's class.")
@click.option(
    *("--unit",),
    type=click.Choice(["function", "file", "pair"]),
    help="Source code: one sample a function, a file, or a function with documentation.",
)
@click.option("--similar", type=float, help="With --unit: leave out texts this alike, e.g. 0.8.")
@click.option("--shard-size", default="1GB", show_default=True, help="The most bytes of a shard.")
@click.option(
    *("--samples-per-shard",), default=10_000, show_default=True, help="The most of a shard."
)
@click.option("--shuffle", is_flag=True, help="Mix the samples over all shards.")
@click.option("--seed", default=0, show_default=True, help="Of the shuffling.")
@click.option("--modality", help="Decode every sample: vision, code, ...")
@click.option(
    *("--spacing",), nargs=3, type=float, metavar="X Y Z", help="Of volumes, in mm: resampled once."
)
@click.option("--licence", help="For the manifest.")
@click.option("--skip-bad", is_flag=True, help="List bad samples in skipped.jsonl, go on.")
@click.option("--engine", default="local", show_default=True, help="local or ray.")
@click.option("--workers", type=click.IntRange(0), help="One a core by default; 0: no processes.")
@click.option("--quiet", is_flag=True, help="No progress.")
def command(source: Path, out: Path, **options: Unpack[_Options]) -> None:
    """Shards in OUT from SOURCE; the same command continues an interrupted build.

    SOURCE is a folder, where files with one name up to the first dot are one sample, or a table
    (csv, tsv, jsonl, parquet), where each row is one. Without --member a row becomes json, with the
    files that its columns path, file, image or audio name.
    """
    from zoo.data.building.build import SKIPPED, BuildOptions, build_shards

    how = BuildOptions(
        shard_bytes=_bytes(options["shard_size"]),
        samples_per_shard=options["samples_per_shard"],
        shuffle=options["shuffle"],
        seed=options["seed"],
    )
    told = ("modality", "licence", "spacing")
    facts = {name: value for name in told if (value := options[name])}  # type: ignore[literal-required]
    if options["unit"]:
        facts |= {"modality": "code"}
    look = _look(options)
    try:
        manifest = build_shards(
            _source(source, out, options, look),
            out,
            how,
            facts=facts,
            measure=look.measure if look else None,
            engine=options["engine"],
            workers=options["workers"],
            progress=not options["quiet"],
        )
    except KeyboardInterrupt:
        click.echo(f"{out}: finished shards are whole; the same command continues", err=True)
        raise
    shards = manifest["shards"]
    assert isinstance(shards, list)
    line = f"{out}: {len(shards)} shards, {manifest['samples']} samples, {_size(manifest)}"
    skipped = manifest.get("skipped")
    click.echo(line + (f"; bad samples: {skipped}, see {out / SKIPPED}" if skipped else ""))


def _source(path: Path, out: Path, options: _Options, look: "_Look | None") -> "Source":
    """The samples, as the modality stores them."""
    from zoo.data.building.sources import Stored

    source = _listed(path, out, options, look.parts if look else frozenset())
    return replace(source, places=Stored(source.places, look.store)) if look else source


def _listed(path: Path, out: Path, options: _Options, parts: Set[str]) -> "Source":
    """The samples, once it is clear that the options fit them."""
    from zoo.data.building.folders import folder_source
    from zoo.data.building.rows import table_source

    if options["unit"]:
        return _code(path, out, options["unit"], options)
    if options["similar"] is not None:
        raise UsageError(f"{path}: --similar is for source code, which needs --unit")
    for_tables = [name for name in _FOR_TABLES if options[name]]  # type: ignore[literal-required]
    if path.is_dir():
        if for_tables:
            raise UsageError(f"{path}: --{_word(for_tables[0])} is for tables, this is a folder")
        return folder_source(
            path,
            exclude=out,
            label_from_folder=options["label_from_folder"],
            skip=options["skip_bad"],
            parts=parts,
        )
    if options["label_from_folder"]:
        raise UsageError(
            f"{path}: --label-from-folder is for folders, this is none: --label COLUMN"
        )
    return table_source(
        path,
        members=dict(_member(word) for word in options["members"]),
        key=options["key"],
        label=options["label"],
        allow_outside=options["allow_outside"],
        skip=options["skip_bad"],
    )


def _code(path: Path, out: Path, unit: "Unit", options: _Options) -> "Source":
    """Source code below a folder."""
    from zoo.corpus import code_source

    unfit = (*_FOR_TABLES, "label_from_folder")
    if given := [name for name in unfit if options[name]]:  # type: ignore[literal-required]
        raise UsageError(f"{path}: --{_word(given[0])} does not go with --unit")
    return code_source(
        path,
        unit=unit,
        similar=options["similar"],
        exclude=out,
        skip=options["skip_bad"],
    )


def _word(name: str) -> str:
    return {"members": "member"}.get(name, name.replace("_", "-"))


def _member(word: str) -> tuple[str, str]:
    extension, equals, column = word.partition("=")
    if not equals:
        raise UsageError(f"--member {word}: is not of the form jpg=@path or txt=caption")
    return extension, column


def _bytes(text: str) -> int:
    """1GB, 500 MB, 2GiB, 1000000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmg]i?|)b?", text.strip().lower())
    if not found:
        raise UsageError(f"--shard-size {text}: is no size such as 1GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2]])


def _size(manifest: Mapping[str, object]) -> str:
    number = float(str(manifest["bytes"]))
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


@dataclass(frozen=True, slots=True)
class _Look:
    """Decodes a sample by its modality's codec: what cannot be decoded is bad."""

    modality: str
    spacing: tuple[float, float, float] | None

    @property
    def parts(self) -> Set[str]:
        """Extensions of files that are one sample with their neighbours."""
        return _codec(self.modality, self.spacing).parts

    def store(self, members: Mapping[str, bytes]) -> dict[str, bytes]:
        """What the shard holds of a sample."""
        return _codec(self.modality, self.spacing).store(members)

    def measure(self, members: Mapping[str, bytes]) -> dict[str, float]:
        """Numbers for the manifest."""
        codec = _codec(self.modality, self.spacing)
        return codec.measure(codec.decode(members))


def _look(options: _Options) -> _Look | None:
    modality, spacing = options["modality"], options["spacing"]
    if spacing and modality != "volume":
        raise UsageError("--spacing is for --modality volume")
    if not modality:
        return None
    _codec(modality, spacing)  # an unknown name is told before anything begins
    return _Look(modality, spacing)


@cache
def _codec(modality: str, spacing: tuple[float, float, float] | None) -> "Codec":
    import torch

    from zoo.registry.build import build_codec

    torch.set_num_threads(1)  # there are more processes; and sums must not depend on how many
    return build_codec(modality, **({"spacing": spacing} if spacing else {}))
