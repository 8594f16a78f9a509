"""A folder of source code as samples: its functions, its files, or functions with documentation.

A sample is the text and facts about it: `file`, `language`, `licence`, `name` and `line` of a
function, `query` (the first paragraph of its documentation), `broken` where its file has syntax
errors. Nothing is cut: what is left out is counted in the manifest by its reason, and files that
cannot be read are bad samples.
"""

import hashlib
import io
import os
import re
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.building.sources import Item, Listing, Source, clean_key
from zoo.errors import DataError, UsageError
from zoo.modalities.code.codec import MAX_BYTES, CodeCodec
from zoo.modalities.code.syntax import language_of, parse

__all__ = ["Corpus", "code_source", "near_duplicates", "read_source"]

Unit = Literal["function", "file", "pair"]
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([A-Za-z0-9.+()\- ]+[A-Za-z0-9.+)])")
_LICENCE = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)
_HEADER = 4096  # characters in which a licence is looked for
_MINHASHES = 128
_SHINGLE = 5  # words (arXiv 2107.06499)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Samples by the file they are in and their place there; can be pickled."""

    root: Path
    unit: Unit
    files: tuple[str, ...]
    times: tuple[int, ...]  # of the files' last change, in ns
    rows: NDArray[np.int64]  # (n, 2): file, and which sample of it

    def part(self, ids: NDArray[np.int64]) -> "Corpus":
        """Some samples, in this order."""
        return replace(self, rows=self.rows[ids])

    def __iter__(self) -> Iterator[Item]:
        """The samples; neighbours of one file share its parsing."""
        opened, items = -1, list[Item]()
        for number, place in self.rows.tolist():
            if number != opened:
                path = self.root / self.files[number]
                if _time(path) != self.times[number]:
                    raise DataError(f"{path}: has changed since it was listed; start again")
                opened, items = number, list(self.items(number))
            yield items[place]

    def items(self, number: int) -> Iterator[Item]:
        """The samples of a file, empty functions and those without documentation included.

        Raises:
            DataError: the file is binary, too large, or in an encoding that it does not declare.
        """
        name = self.files[number]
        path = self.root / name
        text, language = read_source(path), language_of(path)
        assert language is not None
        parsed = parse(text, language)
        facts: dict[str, object] = {
            "file": name,
            "language": language,
            "licence": _licence(text, path, self.root),
        }
        if parsed.is_broken:
            facts["broken"] = True
        if self.unit == "file":
            yield _item(name, text, facts | {"empty": not text.strip()})
            return
        for one in parsed.functions():
            own = {"name": one.name, "line": one.line, "empty": one.is_empty}
            if one.doc:
                own["query"] = " ".join(one.doc.split("\n\n")[0].split())
            yield _item(f"{name}:{one.line}", one.source, facts | own)


def code_source(
    root: Path,
    *,
    unit: Unit = "function",
    similar: float | None = None,
    exclude: Path | None = None,
    skip: bool = False,
) -> Source:
    """The source code below a folder, each text once.

    Args:
        root: searched with all its folders, hidden ones and links aside.
        unit: what a sample is; `pair`: functions with documentation, which is its `query`.
        similar: texts whose words are as similar to those of an earlier one (Jaccard, estimated
            by MinHash) are left out too.
        exclude: left out: the folder of the shards.
        skip: leave out files that cannot be read, instead of stopping.

    Raises:
        UsageError: there is no source code, or a parser is not installed.
        DataError: a file cannot be read; names it.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    left_out: Counter[str] = Counter()
    names = tuple(_files(root, exclude, left_out))
    times = tuple(_time(root / name) for name in names)
    corpus = Corpus(root.absolute(), unit, names, times, np.zeros((0, 2), np.int64))
    listing, rows, licences = Listing(skip), list[tuple[int, int]](), Counter[str]()
    broken, unfit = 0, _unfit(unit, similar)
    for number, name in enumerate(names):
        items = list[Item]()
        with listing.bad.expected(name):
            items = list(corpus.items(number))
        broken += any(_facts(item).get("broken") for item in items[:1])
        for place, item in enumerate(items):
            if reason := unfit(item):
                left_out[reason] += 1
                continue
            licences[str(_facts(item)["licence"])] += 1
            listing.add(len(rows), item)
            rows.append((number, place))
    places = replace(corpus, rows=np.array(rows, np.int64).reshape(-1, 2))
    source = listing.source(
        places,
        root,
        kind=f"code, one sample a {unit}",
        files=len(names),
        files_with_syntax_errors=broken,
        left_out=dict(+left_out),
        licences=dict(sorted(licences.items())),
    )
    stamp = hashlib.sha256(repr((names, times, similar)).encode("utf-8", "surrogateescape"))
    return replace(source, stamp=stamp.hexdigest())


def read_source(path: Path) -> str:
    """A file's text: UTF-8, or what a Python file declares in its first lines.

    Raises:
        DataError: it cannot be read, is binary, larger than a sample may be, or in no encoding
            that it declares.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            what = f"{size} bytes of text, more than the limit of {MAX_BYTES}"
            raise DataError(what, code="TOO_LARGE")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read it ({error.strerror})", code="IO") from None
    if b"\0" in data:
        raise DataError("binary, no text (it has zero bytes)")
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0]
        text = data.decode(encoding if path.suffix == ".py" else "utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise DataError(f"not UTF-8, and nothing better declared ({error})") from None


def near_duplicates(similar: float) -> Callable[[str, str], bool]:
    """Says of one (key, text) after the other whether an earlier text had nearly the same words.

    Args:
        similar: from this Jaccard similarity of their runs of five words on.

    Raises:
        UsageError: the library is not installed, or `similar` is no share.
    """
    if not 0.0 < similar < 1.0:
        raise UsageError(f"similar must lie between 0 and 1, got {similar}")
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise UsageError("datasketch is not installed: pip install 'zoo[code]'") from None
    seen = MinHashLSH(threshold=similar, num_perm=_MINHASHES)

    def is_known(key: str, text: str) -> bool:
        words = re.findall(r"\w+", text)
        runs = {" ".join(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}
        sketch = MinHash(num_perm=_MINHASHES)
        sketch.update_batch([run.encode() for run in sorted(runs)])
        near = [other for other in seen.query(sketch) if sketches[other].jaccard(sketch) >= similar]
        if not near:
            seen.insert(key, sketch)
            sketches[key] = sketch
        return bool(near)

    sketches: dict[str, MinHash] = {}
    return is_known


def _unfit(unit: Unit, similar: float | None) -> Callable[[Item], str | None]:
    """Why a sample is left out, if it is; to be asked of one after the other."""
    texts = set[bytes]()
    is_near = near_duplicates(similar) if similar is not None else None

    def reason(item: Item) -> str | None:
        facts, text = _facts(item), dict(item.members)["txt"]
        assert isinstance(text, bytes)
        if facts["empty"]:
            return "empty"
        if unit == "pair" and not facts.get("query"):
            return "undocumented"
        digest = hashlib.sha256(text).digest()
        if digest in texts:
            return "duplicate"
        texts.add(digest)
        if is_near is not None and is_near(item.where, text.decode()):
            return "near_duplicate"
        return None

    return reason


def _item(where: str, text: str, facts: dict[str, object]) -> Item:
    members = CodeCodec().encode({"text": text, "facts": facts})
    return Item(where, clean_key(where), tuple(members.items()))


def _facts(item: Item) -> dict[str, object]:
    content = dict(item.members)
    decoded = CodeCodec().decode({k: v for k, v in content.items() if isinstance(v, bytes)})
    facts = decoded["facts"]
    assert isinstance(facts, dict)
    return facts


def _files(root: Path, exclude: Path | None, left_out: Counter[str]) -> Iterator[str]:
    """Files in a language that we know, relative to the root, sorted within each folder."""
    ours = None if exclude is None else exclude.resolve()
    for folder, inner, files in os.walk(root):
        here = Path(folder)
        inner[:] = sorted(
            name
            for name in inner
            if not name.startswith(".")
            and not (here / name).is_symlink()
            and (here / name).resolve() != ours
        )
        for name in sorted(files):
            path = here / name
            if name.startswith(".") or path.is_symlink() or not path.is_file():
                left_out["hidden_or_link"] += 1
            elif language_of(path) is None:
                left_out["other_language"] += 1
            else:
                yield path.relative_to(root).as_posix()


def _licence(text: str, path: Path, root: Path) -> str:
    """What the file's header says in SPDX's words, else the nearest licence file, else unknown."""
    if found := _SPDX.search(text, 0, _HEADER):
        return found[1].strip()
    return _licence_file(path.parent, root)


@cache
def _licence_file(folder: Path, root: Path) -> str:
    for name in sorted(entry.name for entry in folder.iterdir() if entry.is_file()):
        if _LICENCE.match(name):
            return (folder / name).relative_to(root).as_posix()
    return "unknown" if folder == root else _licence_file(folder.parent, root)


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})", code="IO") from None
