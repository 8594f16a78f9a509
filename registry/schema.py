"""Tables of text -> frozen dataclasses, strictly: the dataclass is the only schema.

Every problem of a table is reported at once, each with its file, its key and the nearest valid key.
"""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar, Union, get_args, get_origin

from zoo.errors import ConfigError, nearest

__all__ = ["Text", "Value", "override", "read", "read_toml", "to_table", "to_toml"]

Value = object  # whatever TOML holds; the component it is for decides the type
T = TypeVar("T")


class Text(str):
    """A value from the command line: the field it lands in decides its type."""


class _Mismatch(Exception):  # noqa: N818 - never leaves this module
    """What was expected instead."""


def read(cls: type[T], table: Mapping[str, object], *, where: str) -> T:
    """An instance of the dataclass `cls` from a table.

    Args:
        cls: a dataclass of str, int, float, bool, Literal, None, tuples, dicts and dataclasses.
        table: what TOML or JSON gave.
        where: named in errors, usually the file.

    Raises:
        ConfigError: lists every unknown key, missing key and wrong type.
    """
    problems: list[str] = []
    result = _read(cls, table, "", problems)
    if problems or result is None:
        raise ConfigError(f"{where}: " + "; ".join(problems))
    return result


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as a table; syntax errors and unreadable files become one line."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from None


def override(table: Mapping[str, object], words: typing.Iterable[str]) -> dict[str, object]:
    """A copy of `table` with dotted `key=value` words put in, still untyped.

    Raises:
        ConfigError: a word is not of that form, or goes through a value that is no table.
    """
    result: dict[str, object] = json.loads(json.dumps(table))
    for word in words:
        path, equals, value = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"option {word!r} is not of the form key=value")
        *parents, key = path.split(".")
        inner = result
        for parent in parents:
            below = inner.setdefault(parent, {})
            if not isinstance(below, dict):
                raise ConfigError(f"option {word!r}: {parent!r} holds no further keys")
            inner = below
        inner[key] = Text(value)
    return result


def to_table(instance: object) -> dict[str, object]:
    """The inverse of `read`: plain dicts and lists, without fields that are None."""
    assert dataclasses.is_dataclass(instance)
    assert not isinstance(instance, type)

    def plain(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items() if item is not None}
        return [plain(item) for item in value] if isinstance(value, tuple | list) else value

    table = plain(dataclasses.asdict(instance))
    assert isinstance(table, dict)
    return table


def to_toml(table: Mapping[str, object], prefix: str = "") -> str:
    """A table as TOML: plain values first, then one section a sub-table."""
    lines = [
        f"{key} = {json.dumps(value)}"  # a JSON scalar or list of scalars is valid TOML
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{key}"
            lines += ["", f"[{name}]", to_toml(value, f"{name}.")]
    return "\n".join(lines)


def _read(cls: type[T], table: object, path: str, problems: list[str]) -> T | None:
    if not isinstance(table, Mapping):
        problems.append(f"{path or 'the whole'!r} must be a table")
        return None
    assert dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before = len(problems)
    for key in table.keys() - fields.keys():
        near = nearest(key, fields) or sorted(fields)
        problems.append(f"unknown key {path + key!r} (nearest: {', '.join(near)})")
    values: dict[str, object] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], path + name, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"missing key {path + name!r}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:  # the dataclass's own checks
        problems.append(f"{path.rstrip('.') + ': ' if path else ''}{error}")
        return None


def _convert(value: object, hint: object, path: str, problems: list[str]) -> object:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _read(hint, value, path + ".", problems)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and dataclasses.is_dataclass(args[0]):  # X | None
        return None if value is None else _convert(value, args[0], path, problems)
    if origin is tuple and args[-1] is Ellipsis and dataclasses.is_dataclass(args[0]):
        items = value if isinstance(value, list) else []
        return tuple(
            _convert(item, args[0], f"{path}[{i}]", problems) for i, item in enumerate(items)
        )
    if origin is dict and isinstance(value, Mapping):
        return {
            key: _convert(item, args[1], f"{path}.{key}", problems) for key, item in value.items()
        }
    try:
        return _scalar(value, hint)
    except _Mismatch as mismatch:
        problems.append(f"{path!r} must be {mismatch}, got {value!r}")
        return None


def _scalar(value: object, hint: object) -> object:
    """`value` as the type `hint`; text from the command line is parsed first."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _any_of(value, args)
    if origin is Literal:
        if value not in args:
            raise _Mismatch("one of " + ", ".join(map(repr, args)))
        return str(value) if isinstance(value, Text) else value
    if isinstance(value, Text):
        return str(value) if hint is str else _scalar(_parse(value), hint)
    if origin is tuple:
        return _tuple(value, args)
    assert isinstance(hint, type)
    is_bool = isinstance(value, bool)
    if hint is float and isinstance(value, int | float) and not is_bool:
        return float(value)
    if not isinstance(value, hint) or (is_bool and hint not in (bool, object)):
        raise _Mismatch(_name(hint))
    return value


def _any_of(value: object, options: tuple[object, ...]) -> object:
    for option in options:
        try:
            return _scalar(value, option)
        except _Mismatch:
            continue
    raise _Mismatch(" or ".join(_name(option) for option in options))


def _tuple(value: object, args: tuple[object, ...]) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise _Mismatch("a list")
    if args[-1] is Ellipsis:
        return tuple(_scalar(item, args[0]) for item in value)
    if len(value) != len(args):
        raise _Mismatch(f"a list of {len(args)}")
    return tuple(_scalar(item, hint) for item, hint in zip(value, args, strict=True))


def _parse(text: str) -> object:
    """A TOML value, or the text itself; `1,2` is a list, `none` is None."""
    if text.lower() == "none":
        return None
    for candidate in (text, f"[{text}]" if "," in text else ""):
        try:
            return tomllib.loads(f"x = {candidate}")["x"]
        except tomllib.TOMLDecodeError:
            continue
    return str(text)


def _name(hint: object) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if hint is type(None):
        return "nothing"
    return names.get(hint, str(hint)) if isinstance(hint, type) else str(hint)
