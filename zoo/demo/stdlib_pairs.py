"""Documented functions of the running Python's standard library as pairs for code search.

The text is the first paragraph of a docstring, the code is the function without it. The split is
that of `zoo.demo.stdlib`: no module is on both sides.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from zoo.demo.stdlib import is_held_out, stdlib_sources
from zoo.probes.search import SearchPairs

__all__ = ["stdlib_pairs"]

_MIN_WORDS, _MIN_LINES = 3, 3
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class _Pair:
    query: str
    code: str
    anonymous: str
    module: str


def stdlib_pairs() -> dict[str, SearchPairs]:
    """The pairs of `train` and `test`."""
    sides: dict[str, list[_Pair]] = {"train": [], "test": []}
    queries, codes = set[str](), set[str]()
    for pair in _pairs():
        if pair.query in queries or pair.code in codes:
            continue
        queries.add(pair.query)
        codes.add(pair.code)
        sides["test" if is_held_out(pair.module) else "train"].append(pair)
    return {side: _columns(pairs) for side, pairs in sides.items()}


def _columns(pairs: list[_Pair]) -> SearchPairs:
    return SearchPairs(
        queries=[pair.query for pair in pairs],
        codes=[pair.code for pair in pairs],
        anonymous=[pair.anonymous for pair in pairs],
        modules=[pair.module for pair in pairs],
    )


def _pairs() -> Iterator[_Pair]:
    for module, _, source in stdlib_sources():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's code
                tree = ast.parse(source)
        except SyntaxError:
            continue  # templates are no code to search
        lines = source.splitlines(keepends=True)
        for node in ast.walk(tree):
            if isinstance(node, _Function) and (pair := _pair(node, lines, module)):
                yield pair


def _pair(node: _Function, lines: list[str], module: str) -> _Pair | None:
    """A function that can be looked for, else None."""
    doc = ast.get_docstring(node)
    is_special = node.name.startswith("__") and node.name.endswith("__")
    if not doc or is_special or "test" in node.name.lower():
        return None
    query = " ".join(doc.strip().split("\n\n")[0].split())
    if len(query.split()) < _MIN_WORDS or query.startswith(">>>"):
        return None
    first = node.body[0]
    begin, end = first.lineno - 1, first.end_lineno or first.lineno
    kept = [*lines[node.lineno - 1 : begin], *lines[end : node.end_lineno]]
    code = "".join(kept)
    if sum(bool(line.strip()) for line in kept) < _MIN_LINES:
        return None
    return _Pair(query, code, _anonymous(code, node), module)


def _anonymous(code: str, node: _Function) -> str:
    """The code with `Func` for the function's name and arg_0, arg_1, ... for its arguments."""
    args = node.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    every += [one for one in (args.vararg, args.kwarg) if one is not None]
    names = {arg.arg: f"arg_{number}" for number, arg in enumerate(every)} | {node.name: "Func"}
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    return pattern.sub(lambda found: names[found[1]], code)
