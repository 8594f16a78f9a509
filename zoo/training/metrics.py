"""What a run says about itself: metrics.jsonl and TensorBoard always, a live line for a person."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from zoo.files import storage_errors, write_atomic

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Reporter", "read_metrics"]

METRICS = "metrics.jsonl"
_PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class Reporter:
    """Takes one row of numbers a logged step; a context manager: it holds files and a screen."""

    def __init__(self, folder: Path, *, total: int, start: int, progress: bool = True) -> None:
        """Continues the logs of a run that resumes at step `start`.

        Args:
            folder: of the run.
            total: steps of the whole run.
            start: steps done; rows of later steps are dropped, they will come again.
            progress: show anything on stderr.
        """
        self.path, self.total, self.start, self.progress = folder / METRICS, total, start, progress
        kept = [row for row in read_metrics(folder) if row["step"] <= start]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._boards = folder / "tensorboard"

    def __enter__(self) -> Self:
        from torch.utils.tensorboard import SummaryWriter

        with storage_errors(self.path):
            self._file = self.path.open("a")
            self._writer = SummaryWriter(str(self._boards), purge_step=self.start + 1)
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
        self._writer.close()
        self._file.close()

    def log(self, row: Mapping[str, float]) -> None:
        """One row; needs `step`, `loss`, `lr`, `samples_per_second` and `data_wait`."""
        step = int(row["step"])
        with storage_errors(self.path):
            self._file.write(json.dumps(dict(row)) + "\n")
            self._file.flush()
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(name, value, step)
        if not self.progress:
            return
        text = (
            f"loss {row['loss']:.4f}  lr {row['lr']:.1e}  "
            f"{row['samples_per_second']:,.0f} samples/s  data wait {row['data_wait']:.0%}"
        )
        if self._live:
            self._live.update(self._live.task_ids[0], completed=step, description=text)
            return
        now = time.monotonic()
        if now - self._said >= _PLAIN_EVERY or step == self.total:
            left = (now - self._began) / max(1, step - self.start) * (self.total - step)
            print(f"step {step}/{self.total}  {text}  {left:.0f} s left", file=sys.stderr)  # noqa: T201
            self._said = now


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Rows of a run's metrics.jsonl; a last line that a kill cut short is dropped."""
    path = folder / METRICS
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
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

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    live = Progress(*columns, console=console, expand=True)
    live.add_task("starting", total=total, completed=start)
    live.start()
    return live
