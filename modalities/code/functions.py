"""Functions of Python source, found with the standard library's own parser."""

import ast
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Function", "python_functions"]


@dataclass(frozen=True, slots=True)
class Function:
    """One function or method; functions inside a function belong to it."""

    name: str  # with its classes: "Path.glob"
    source: str  # dedented, decorators included
    line: int


def python_functions(source: str) -> Iterator[Function]:
    """Functions of a file, in order.

    Raises:
        SyntaxError: the source does not parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        tree = ast.parse(source)
    yield from _walk(tree, "", source.splitlines(keepends=True))


def _walk(node: ast.AST, prefix: str, lines: list[str]) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
            text = textwrap.dedent("".join(lines[first - 1 : child.end_lineno]))
            yield Function(prefix + child.name, text, first)
        elif isinstance(child, ast.ClassDef):
            yield from _walk(child, f"{prefix}{child.name}.", lines)
        else:
            yield from _walk(child, prefix, lines)
