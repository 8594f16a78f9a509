"""Functions of the running Python's standard library (real code) as shards, split by module.

A module is its top-level name without leading underscores and extension; it is held out when the
MD5 of that name is divisible by 5, so that no module stands on both sides on any machine.
"""

import hashlib
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zoo.data.building.build import write_shards
from zoo.data.shard.write import MANIFEST
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.code.functions import python_functions

__all__ = ["digest_of", "is_held_out", "stdlib_sources", "write_stdlib"]

DROPPED = frozenset(
    [
        "test",
        "idlelib",
        "lib2to3",
        "distutils",
        "tkinter",
        "turtle",
        "turtledemo",
        "ctypes",
        "ensurepip",
        "msilib",
        "pydoc_data",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "lib-dynload",
    ]
)
DROPPED_FOLDERS = frozenset({"test", "tests", "idle_test"})
MIN_LINES = 3  # that are not empty
MAX_BYTES = 20_000


@dataclass(frozen=True, slots=True)
class _Item:
    module: str
    file: str
    name: str
    text: str


def is_held_out(module: str) -> bool:
    """Whether a top-level module belongs to the test side."""
    return digest_of(module) % 5 == 0


def digest_of(module: str) -> int:
    """A module's number, by which it gets its side: the same on every machine."""
    return int(hashlib.md5(module.encode(), usedforsecurity=False).hexdigest(), 16)


def stdlib_sources() -> Iterator[tuple[str, str, str]]:
    """Module, file and text of all source files but tests and those in other encodings."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        module = relative.parts[0].removesuffix(".py")
        if module in DROPPED or DROPPED_FOLDERS & set(relative.parts):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        yield module.lstrip("_"), relative.as_posix(), text


def write_stdlib(folder: Path, *, most: int | None = None) -> dict[str, Path]:
    """Writes the shards of both splits; a text that stands twice is kept once, in `train`.

    Args:
        folder: gets `train` and `test`; complete ones stay as they are.
        most: functions of each split, the first ones; all by default.

    Returns:
        The folder of each split.
    """
    folders = {split: folder / split for split in ("train", "test")}
    if all((path / MANIFEST).exists() for path in folders.values()):
        return folders
    splits: dict[str, list[_Item]] = {"train": [], "test": []}
    for item in _items():
        splits["test" if is_held_out(item.module) else "train"].append(item)
    seen: set[str] = set()
    for split, path in folders.items():
        fresh = []
        for item in splits[split]:
            if item.text not in seen:
                seen.add(item.text)
                fresh.append(item)
        shutil.rmtree(path, ignore_errors=True)
        write_shards(_samples(fresh[:most]), path)
    return folders


def _items() -> Iterator[_Item]:
    for module, file, text in stdlib_sources():
        try:
            functions = list(python_functions(text))
        except SyntaxError:
            continue  # templates are no code to learn from
        for function in functions:
            lines = [line for line in function.source.splitlines() if line.strip()]
            if len(lines) < MIN_LINES or len(function.source) > MAX_BYTES:
                continue
            yield _Item(module, file, function.name, function.source)


def _samples(items: list[_Item]) -> Iterator[tuple[str, dict[str, bytes]]]:
    codec = CodeCodec()
    for number, item in enumerate(items):
        facts = {"module": item.module, "file": item.file, "name": item.name}
        yield f"{number:06d}", codec.encode({"text": item.text, "facts": facts})
