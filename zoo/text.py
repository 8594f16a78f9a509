"""Plain tables: a rich one costs more start-up time than reading the catalogue."""

import shutil
from collections.abc import Sequence

__all__ = ["columns", "in_bytes"]


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns; the last is cut at the terminal's width."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = shutil.get_terminal_size((120, 24)).columns
    lines = []
    for row in (head, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join(cells).rstrip()
        lines.append(line if len(line) <= room else line[: room - 1] + "…")
    return "\n".join(lines)


def in_bytes(number: float) -> str:
    """A size with its unit: 3 significant digits, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
