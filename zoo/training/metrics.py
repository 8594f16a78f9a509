"""What a run says about itself: metrics.jsonl, the loggers of its recipe, a live line for a person.

A row holds plain numbers by name. The line shows what it knows of them and leaves out what a row
does not have, and on a narrow terminal what comes last.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from zoo.files import storage_errors, write_atomic
from zoo.modalities.contracts import Batch, Encoder
from zoo.training.loggers import Loggers

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = [
    "Reporter",
    "Silent",
    "count_tokens",
    "describe",
    "memory_gb",
    "read_metrics",
]

METRICS = "metrics.jsonl"
_PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal
_BAR = 12  # columns


class Silent:
    """For every process of a run but the first: two writers would spoil each other's files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, row: Mapping[str, float]) -> None:
        """Does nothing."""


class Reporter:
    """Writes a run's rows and shows its progress on stderr."""

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        start: int,
        loggers: Sequence[str] = ("tensorboard",),
        progress: bool = True,
    ) -> None:
        """Continues the logs of a run that resumes at step `start`.

        Args:
            folder: of the run.
            total: steps of the whole run.
            start: steps done; rows of later steps are dropped, they will come again.
            loggers: where rows go besides metrics.jsonl, names of `zoo.training.loggers.LOGGERS`.
            progress: show anything on stderr.
        """
        self.folder, self.path, self.names = folder, folder / METRICS, loggers
        self.total, self.start, self.progress = total, start, progress
        kept = [row for row in read_metrics(folder) if row["step"] <= start]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def __enter__(self) -> Self:
        with storage_errors(self.path):
            self._file = self.path.open("a")
        try:
            self._loggers = Loggers(self.names, self.folder, start=self.start)
        except BaseException:
            self._file.close()
            raise
        self._live = _live(self.total, self.start) if self.progress else None
        self._began = self._said = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        self._loggers.close()
        self._file.close()

    def log(self, row: Mapping[str, float]) -> None:
        """Writes one row, and shows it."""
        step = int(row["step"])
        with storage_errors(self.path):
            self._file.write(json.dumps(dict(row)) + "\n")
            self._file.flush()
        self._loggers.log(row)
        if not self.progress:
            return
        if self._live:
            beside = len(f"{self.total}/{self.total} ") + _BAR + len(" 0:00:00 ")
            text = describe(row, room=self._live.console.width - beside)
            self._live.update(self._live.task_ids[0], completed=step, description=text)
            return
        now = time.monotonic()
        if now - self._said >= _PLAIN_EVERY or step == self.total:
            left = (now - self._began) / max(1, step - self.start) * (self.total - step)
            line = f"step {step}/{self.total}  {describe(row)}  {left:.0f} s left"
            print(line, file=sys.stderr)  # noqa: T201
            self._said = now


def describe(row: Mapping[str, float], *, room: int | None = None) -> str:
    """A row as one line whose columns stay where they are from row to row.

    Args:
        row: numbers by name; unknown names are not shown.
        room: columns that there are; what does not fit is left out, the last first.
    """
    line = ""
    for name, show in _COLUMNS.items():
        if name not in row:
            continue
        longer = f"{line}  {show(row[name])}".lstrip()
        if room is not None and line and len(longer) > room:
            break
        line = longer
    return line


_COLUMNS: dict[str, Callable[[float], str]] = {
    "loss": lambda v: f"loss {v:.4f}" if abs(v) < 1000 else f"loss {v:.1e}",
    "lr": lambda v: f"lr {v:.1e}",
    "samples_per_second": lambda v: f"{_short(v)} samples/s",
    "data_wait": lambda v: f"data wait {v:>4.0%}",
    "grad_norm": lambda v: f"|g| {v:<7.3g}",
    "mfu": lambda v: f"MFU {v:>5.1%}",
    "memory_gb": lambda v: f"{v:>5.1f} GB",
    "tokens_per_second": lambda v: f"{_short(v)} tokens/s",
}


def _short(value: float) -> str:
    """Five columns: 3 significant digits and k, M or G."""
    power = 0
    while value >= 999.5 and power < 3:
        value, power = value / 1000, power + 1
    digits = 0 if value >= 99.95 or not power else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{' kMG'[power].strip()}".rjust(5)


def count_tokens(batch: Batch, encoder: Encoder) -> int:
    """Tokens of a batch: real ones of a packed batch, else those of the encoder's whole grid.

    A sample counts as one token where neither tells. Needs no device: `lengths` is on the host.
    """
    if "lengths" in batch:
        return int(batch["lengths"].sum())
    samples = len(next(iter(batch.values())))
    return samples * torch.Size(getattr(encoder, "grid", ())).numel()


def memory_gb(device: torch.device) -> float:
    """Memory in 1e9 bytes: the peak of what torch took on a GPU, else what the process holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux: the largest so far is the next best; macOS counts in bytes
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
    return pages * resource.getpagesize() / 1e9


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of a run's metrics.jsonl, steps ascending; a last line that a kill cut short is dropped.

    A run that went back to a checkpoint logs steps again: what it logged before is dropped, too.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    rows: list[dict[str, float]] = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        while rows and rows[-1]["step"] >= row["step"]:
            rows.pop()
        rows.append(row)
    return rows


def _live(total: int, start: int) -> "Progress | None":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    text = Column(no_wrap=True, overflow="ellipsis")
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=_BAR),
        TextColumn("{task.description}", table_column=text, markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    live = Progress(*columns, console=console)
    live.add_task("starting", total=total, completed=start)
    live.start()
    return live
