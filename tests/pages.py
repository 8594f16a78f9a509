"""Pages to type from: ```python and ```bash blocks run in their order, as a reader runs them.

One process and one namespace run a page, in a folder that is empty before. An ```output block says
what the block above it prints, errors and progress included, after these rules: `...` stands for
anything, numbers with decimals may be off by a tenth. Other blocks (```text, ```toml) do not run.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
BETWEEN = "\x1e\n"  # the record separator, which nothing prints
LONGEST = 300  # seconds: a page that hangs ends


@dataclass
class Block:
    """One fenced block, and what the page says that it prints."""

    language: str
    text: str
    line: int  # of the page, the fence's is 1 less
    shown: str | None = None


@dataclass
class Page:
    """A Markdown file and the blocks of it that run."""

    path: Path
    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self):
        self.text = self.path.read_text()
        for found in BLOCK.finditer(self.text):
            language, text = found.groups()
            if language in ("python", "bash"):
                line = self.text.count("\n", 0, found.start(2)) + 1
                self.blocks.append(Block(language, text, line))
            elif language == "output":
                self.blocks[-1].shown = text

    def script(self):
        """Python whose lines have the numbers of the page's, so that a traceback points there."""
        lines = []
        for block in self.blocks:
            lines += [""] * (block.line - 2 - len(lines)) + [f"print({BETWEEN!r}, end='')"]
            if block.language == "python":
                lines += block.text.splitlines()
            else:
                command = ["bash", "-e", "-c", block.text]
                lines.append(f"__import__('subprocess').run({command!r}, check=True)")
        return "\n".join(lines) + "\n"

    def run(self, folder):
        """Fails with what was printed if a block fails, or prints other things than are shown."""
        script = folder / "page.py"
        script.write_text(self.script())
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [sys.executable, script],
            cwd=folder,
            env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "100"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LONGEST,
        )
        assert done.returncode == 0, f"{self.path.name}: {done.stdout[-4000:]}"
        for block, printed in zip(self.blocks, done.stdout.split(BETWEEN)[1:], strict=True):
            if block.shown is not None:
                where = f"{self.path.name}:{block.line}"
                assert prints(block.shown, printed), f"{where} prints\n{printed}"


def prints(shown, printed):
    """Whether a page may show this for what was printed."""
    pieces = re.split(r"(\.\.\.|-?\d+\.\d+)", shown.strip())
    forms = {"...": ".*?"}
    decimal = re.compile(r"-?\d+\.\d+")
    pattern = "".join(
        r"(-?\d+\.\d+)" if decimal.fullmatch(piece) else forms.get(piece, re.escape(piece))
        for piece in pieces
    )
    found = re.fullmatch(pattern, printed.strip(), flags=re.DOTALL)
    wanted = [float(piece) for piece in pieces if decimal.fullmatch(piece)]
    return found is not None and [*map(float, found.groups())] == pytest.approx(
        wanted, rel=0.1, abs=0.1
    )
