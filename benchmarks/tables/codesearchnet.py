"""CodeSearchNet (arXiv 1909.09436): text -> code, zero-shot, over each language's whole code base.

    python -m zoo.benchmarks.tables.codesearchnet codet5p-110m-embedding --weights W --data CSN

It has been run on made-up functions in the data set's file formats only, never on CodeSearchNet
itself. DATA holds a folder a language, either of the filtered set that papers report (arXiv
2009.08366), `test.jsonl` with the texts and `codebase.jsonl` with the codes, or of the original
release, `final/jsonl/test/*.jsonl.gz`, where texts and codes are the same rows; numbers of the two
do not compare. Protocol of CodeT5+ (arXiv 2305.07922): tokens joined by blanks, 64 of a text and
360 of a code, cosine similarity. DEVIATION: codes that score the same rank before the right one,
so that ties never help.
"""

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

import click
import numpy as np
from zoo.benchmarks.tables.options import model_options
from zoo.modalities.code.preprocess import CodePreprocess
from zoo.modalities.contracts import Encoder

import zoo
from zoo.errors import DataError, UsageError
from zoo.probes.search import cosine, reciprocal_ranks
from zoo.text import columns

__all__ = ["LANGUAGES", "PUBLISHED", "Split", "command", "measure", "read_split"]

LANGUAGES = ("ruby", "javascript", "go", "python", "java", "php")
TEXT_TOKENS, CODE_TOKENS = 64, 360
_TOGETHER = 512  # texts whose similarities are in memory

# MRR x 100 in the order of LANGUAGES, from the repository salesforce/CodeT5 at 7de7f69
PUBLISHED: Mapping[str, tuple[float, ...]] = {
    "codet5p-110m-embedding": (74.51, 69.07, 90.69, 71.55, 71.82, 67.72),
    "unixcoder-base": (57.6, 44.2, 64.8, 44.7, 46.6, 37.3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """One language's test set."""

    texts: tuple[str, ...]
    codes: tuple[str, ...]
    own: tuple[int, ...]  # of each text: which code is its
    duplicates: int  # codes of an address that was there before, left out


def read_split(folder: Path) -> Split:
    """A language's folder, in either format.

    Raises:
        UsageError: it holds none of the files.
        DataError: a line is none of the format, or a text's code is missing; names it.
    """
    filtered = [folder / name for name in ("test.jsonl", "codebase.jsonl")]
    if all(path.is_file() for path in filtered):
        asked, base = (list(_rows(path)) for path in filtered)
    else:
        paths = sorted((folder / "final" / "jsonl" / "test").glob("*.jsonl.gz"))
        if not paths:
            raise UsageError(
                f"{folder}: neither test.jsonl and codebase.jsonl, nor final/jsonl/test/*.jsonl.gz"
            )
        asked = base = [row for path in paths for row in _rows(path)]
    places: dict[str, int] = {}
    codes: list[str] = []
    for where, row in base:
        if _field(row, "url", where) not in places:
            places[str(row["url"])] = len(codes)
            codes.append(_joined(row, "code_tokens", where))
    texts, own = [], []
    for where, row in asked:
        url = str(_field(row, "url", where))
        if url not in places:
            raise DataError(f"{where}: its code {url} is not in the code base")
        texts.append(_joined(row, "docstring_tokens", where))
        own.append(places[url])
    return Split(
        texts=tuple(texts),
        codes=tuple(codes),
        own=tuple(own),
        duplicates=len(base) - len(codes),
    )


def measure(encoder: Encoder, split: Split) -> tuple[float, int, int]:
    """Mean reciprocal rank, and how many texts and codes were too long and cut."""
    with _tokens(encoder, TEXT_TOKENS) as text_cut:
        texts = encoder.embed(split.texts)
    with _tokens(encoder, CODE_TOKENS) as code_cut:
        codes = encoder.embed(split.codes)
    own = np.array(split.own)
    ranks = [
        reciprocal_ranks(cosine(texts[i : i + _TOGETHER], codes), own[i : i + _TOGETHER])
        for i in range(0, len(texts), _TOGETHER)
    ]
    return float(np.concatenate(ranks).mean()), text_cut[0], code_cut[0]


@contextmanager
def _tokens(encoder: Encoder, most: int) -> Iterator[list[int]]:
    """The encoder reads so many tokens of a text at most; afterwards, how many texts were cut."""
    preprocess = encoder.preprocess
    if not isinstance(preprocess, CodePreprocess):
        raise UsageError("CodeSearchNet needs an encoder of code")
    config, before, cut = preprocess.config, preprocess.cut, [0]
    preprocess.config = replace(config, max_length=min(most, config.max_length))
    try:
        yield cut
    finally:
        preprocess.config, cut[0] = config, preprocess.cut - before


def _rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The objects of a file of JSON lines, each with its place."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with cast("IO[str]", opener(path, "rt", encoding="utf-8")) as file:
            for number, line in enumerate(file, start=1):
                where, row = f"{path}, line {number}", json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{where}: not an object")
                yield where, row
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot read it ({error})") from None


def _field(row: Mapping[str, object], name: str, where: str) -> object:
    if name not in row:
        raise DataError(f"{where}: no field {name!r}")
    return row[name]


def _joined(row: Mapping[str, object], name: str, where: str) -> str:
    tokens = _field(row, name, where)
    if not isinstance(tokens, list):
        raise DataError(f"{where}: {name!r} is no list of tokens")
    return " ".join(" ".join(map(str, tokens)).split())


@click.command()
@model_options
@click.option("--data", type=click.Path(path_type=Path), required=True, help="See above.")
@click.option("--language", type=click.Choice(LANGUAGES), default=LANGUAGES, multiple=True)
def command(model: str, weights: Path | None, data: Path, language: tuple[str, ...]) -> None:
    """MODEL's mean reciprocal ranks on CodeSearchNet, published ones beside."""
    encoder = zoo.load(model, weights=weights) if weights else zoo.load(model)
    known = dict(zip(LANGUAGES, PUBLISHED.get(model, ()), strict=False))
    cells = []
    for name in language:
        split = read_split(data / name)
        score, text_cut, code_cut = measure(encoder, split)
        expected = f"{known[name]:g}" if name in known else "-"
        sizes = (str(len(split.texts)), str(len(split.codes)), str(split.duplicates))
        cells.append((name, f"{100 * score:.2f}", expected, *sizes, f"{text_cut}, {code_cut}"))
    head = ("language", "MRR", "published", "texts", "codes", "duplicates", "cut texts, codes")
    click.echo(columns(head, cells))


if __name__ == "__main__":
    command()
