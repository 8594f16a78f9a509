"""Functions and identifiers of source code in several languages, by tree-sitter.

Its parsers go on behind a syntax error, so that whatever is a function is found in any text; the
text as a whole is flagged (`Parsed.is_broken`).
"""

import importlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING

from zoo.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

__all__ = ["LANGUAGES", "CodeFunction", "Parsed", "identifiers", "language_of", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Language:
    """What is to know of a language beside its grammar."""

    extensions: tuple[str, ...]
    functions: frozenset[str]  # kinds of nodes
    entry: str = "language"  # of the package tree_sitter_<name>


LANGUAGES = {
    "go": _Language(
        extensions=(".go",), functions=frozenset({"function_declaration", "method_declaration"})
    ),
    "java": _Language(
        extensions=(".java",),
        functions=frozenset({"method_declaration", "constructor_declaration"}),
    ),
    "javascript": _Language(
        extensions=(".js", ".cjs", ".jsx", ".mjs"),
        functions=frozenset(
            {"function_declaration", "generator_function_declaration", "method_definition"}
        ),
    ),
    "php": _Language(
        extensions=(".php",),
        functions=frozenset({"function_definition", "method_declaration"}),
        entry="language_php",
    ),
    "python": _Language(extensions=(".py",), functions=frozenset({"function_definition"})),
    "ruby": _Language(extensions=(".rb",), functions=frozenset({"method", "singleton_method"})),
}
_EXTENSIONS = {ending: name for name, one in LANGUAGES.items() for ending in one.extensions}
_NAMES = frozenset({"constant", "identifier", "instance_variable", "name"})
# What stands around a function and belongs to it, and what a comment may stand before instead.
_AROUND = frozenset({"decorated_definition", "export_statement"})


@dataclass(frozen=True, slots=True)
class CodeFunction:
    """One function or method; functions inside a function belong to it."""

    name: str
    source: str  # dedented, decorators included, documentation left out
    doc: str  # its documentation without the comment's signs; empty where there is none
    line: int  # from 1
    is_empty: bool  # it does nothing: no body, `pass`, `...`, or documentation alone


@dataclass(frozen=True, slots=True)
class Parsed:
    """A file, parsed."""

    root: "Node"
    text: bytes
    language: str

    @property
    def is_broken(self) -> bool:
        """Whether some of it is no valid source."""
        return bool(self.root.has_error)

    def functions(self) -> Iterator[CodeFunction]:
        """Functions in order."""
        kinds = LANGUAGES[self.language].functions
        stack = [self.root]
        while stack:
            node = stack.pop()
            if node.type in kinds:
                yield self._function(node)
            else:
                stack += reversed(node.children)

    def _function(self, node: "Node") -> CodeFunction:
        named = node.child_by_field_name("name")
        body = node.child_by_field_name("body")
        outer = node
        while outer.parent is not None and outer.parent.type in _AROUND:
            outer = outer.parent
        doc, hidden = self._docstring(body) if self.language == "python" else ("", None)
        if self.language != "python":
            doc = self._comment(outer)
        start = outer.start_byte - outer.start_point.column
        source = self._text(start, outer.end_byte)
        inner = "" if body is None else self._text(body.start_byte, body.end_byte)
        if hidden is not None:
            first = _line_start(self.text, hidden.start_byte)
            source = self._text(start, first) + self._text(hidden.end_byte, outer.end_byte).lstrip(
                " \t;"
            ).removeprefix("\n")
            inner = inner.replace(self._text(hidden.start_byte, hidden.end_byte), "", 1)
        return CodeFunction(
            name="" if named is None else self._text(named.start_byte, named.end_byte),
            source=textwrap.dedent(source),
            doc=doc,
            line=outer.start_point.row + 1,
            is_empty=inner.strip("{} \t\r\n;") in ("", "pass", "..."),
        )

    def _text(self, begin: int, end: int) -> str:
        return self.text[begin:end].decode()

    def _docstring(self, body: "Node | None") -> tuple[str, "Node | None"]:
        """A Python function's, and the statement that is it."""
        first = (
            next((n for n in body.named_children if n.type != "comment"), None) if body else None
        )
        if first is None or first.type != "expression_statement" or not first.named_children:
            return "", None
        string = first.named_children[0]
        if string.type != "string" or len(first.named_children) > 1:
            return "", None
        parts = [n for n in string.children if n.type == "string_content"]
        text = "".join(self._text(n.start_byte, n.end_byte) for n in parts)
        head, _, rest = text.partition("\n")
        return f"{head.strip()}\n{textwrap.dedent(rest)}".strip(), first

    def _comment(self, node: "Node") -> str:
        """The comments that end on the line before a function, without their signs."""
        lines: list[str] = []
        below, before = node.start_point.row, node.prev_named_sibling
        while before is not None and "comment" in before.type and _last_row(before) == below - 1:
            lines[:0] = self._text(before.start_byte, before.end_byte).splitlines()
            below, before = before.start_point.row, before.prev_named_sibling
        return "\n".join(line.strip().strip("/*#").strip() for line in lines).strip()


def parse(text: str, language: str) -> Parsed:
    """Parses a file.

    Raises:
        UnknownNameError: there is no parser for the language here.
        UsageError: its package is not installed.
    """
    data = text.encode()
    return Parsed(_parser(language).parse(data).root_node, data, language)


def language_of(path: PurePath) -> str | None:
    """The language of a file by the end of its name, where we know it."""
    return _EXTENSIONS.get(path.suffix.lower())


def identifiers(text: str, language: str) -> list[tuple[int, int]]:
    """Where names stand, in characters: of variables, functions, types, fields.

    Raises:
        UnknownNameError: there is no parser for the language here.
        UsageError: its package is not installed.
    """
    parsed = parse(text, language)
    found, stack = [], [parsed.root]
    while stack:
        node = stack.pop()
        if not node.child_count and (node.type in _NAMES or node.type.endswith("_identifier")):
            found.append((node.start_byte, node.end_byte))
        stack += reversed(node.children)
    if text.isascii():
        return found
    return [tuple(len(parsed.text[:at].decode()) for at in span) for span in found]  # type: ignore[misc]


@cache
def _parser(language: str) -> "Parser":
    if language not in LANGUAGES:
        raise UnknownNameError("language", language, LANGUAGES)
    try:
        from tree_sitter import Language, Parser

        grammar = importlib.import_module(f"tree_sitter_{language}")
    except ImportError as error:
        raise UsageError(
            f"{error.name} is not installed, which reads {language}: pip install 'zoo[code]'"
        ) from None
    return Parser(Language(getattr(grammar, LANGUAGES[language].entry)()))


def _line_start(text: bytes, at: int) -> int:
    """The first byte of the blanks before a statement, where it begins its line."""
    begin = text.rfind(b"\n", 0, at) + 1
    return begin if not text[begin:at].strip() else at


def _last_row(node: "Node") -> int:
    """The row of a node's last sign; line comments of some grammars end on the next row."""
    return node.end_point.row - (node.end_point.column == 0)
