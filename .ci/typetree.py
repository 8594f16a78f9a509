"""Builds .typing/zoo: links that show mypy the tree as it is installed."""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("modalities", "objectives", "registry", "hub", "benchmarks")

tree = ROOT / ".typing" / "zoo"
shutil.rmtree(tree.parent, ignore_errors=True)
tree.mkdir(parents=True)
for entry in (ROOT / "zoo").iterdir():
    if entry.name != "__pycache__":
        (tree / entry.name).symlink_to(entry)
for name in MAPPED:
    (tree / name).symlink_to(ROOT / name)
