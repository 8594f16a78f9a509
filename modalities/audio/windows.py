"""Windows over recordings of any length: cut while reading, embedded in bounded memory.

Notation: C channels, T samples of a window, N windows, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import overload

import numpy as np
from zoo.modalities.audio.decode import Recording
from zoo.modalities.audio.preprocess import SoundPreprocess
from zoo.modalities.contracts import Encoder, Raw, Sample
from zoo.modalities.members import Audio

from zoo.errors import DataError, UsageError

__all__ = ["AudioEncoder", "WindowFeatures", "cut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFeatures:
    """Features of windows, in the order of the inputs and of time.

    Attributes:
        features: (N, D) float32.
        inputs: (N,) which input each window is of.
        starts: (N,) seconds from the beginning of its recording.
        skipped: why inputs are missing, by their number.
    """

    features: np.ndarray
    inputs: np.ndarray
    starts: np.ndarray
    skipped: dict[int, str]


def cut(recording: Recording, window: float, hop: float) -> Iterator[tuple[float, Audio]]:
    """Windows of a recording and the seconds at which they start.

    They start every `hop` seconds; the last one ends where the recording ends, so it may overlap
    more, and nothing is filled up. A recording that is shorter than a window is one window.

    Args:
        recording: read once, from its beginning; two windows are in memory at most.
        window: seconds.
        hop: seconds from one start to the next.

    Raises:
        DataError: it is damaged; names it.
    """
    rate = recording.rate
    size, step = max(1, round(window * rate)), max(1, round(hop * rate))
    start, samples = 0, recording.read(0, size)
    if not samples.shape[1]:
        raise DataError(f"{recording.name}: no samples", code="EMPTY_PART")
    while True:
        yield start / rate, Audio(samples, rate)
        fresh = recording.read(start + size, step)
        start += fresh.shape[1]
        if fresh.shape[1]:
            samples = np.concatenate([samples, fresh], axis=1)[:, -size:]
            if fresh.shape[1] < step:
                yield start / rate, Audio(samples, rate)
        if fresh.shape[1] < step:
            return


class AudioEncoder(Encoder):
    """An encoder of recordings."""

    modality = "audio"
    preprocess: SoundPreprocess

    @overload
    def embed(
        self, inputs: Sequence[Raw], *, batch_size: int = 64, progress: bool | None = None
    ) -> np.ndarray: ...

    @overload
    def embed(
        self,
        inputs: Sequence[Raw],
        *,
        batch_size: int = 64,
        progress: bool | None = None,
        window: float,
        hop: float | None = None,
        skip_bad: bool = False,
    ) -> WindowFeatures: ...

    def embed(
        self,
        inputs: Sequence[Raw],
        *,
        batch_size: int = 64,
        progress: bool | None = None,
        window: float | None = None,
        hop: float | None = None,
        skip_bad: bool = False,
    ) -> np.ndarray | WindowFeatures:
        """Pooled features of recordings: of each, or of all its windows.

        Args:
            inputs: paths, bytes, arrays or samples; one path may stand alone.
            batch_size: what goes through the encoder together.
            progress: a bar on the terminal; by default for more than one batch on a terminal.
            window: seconds; recordings are cut into such windows and never held whole.
            hop: seconds from one window to the next, by default no overlap.
            skip_bad: leave out inputs that cannot be read and say why, instead of raising.

        Returns:
            (len(inputs), dim) float32, or `WindowFeatures` where `window` is given.

        Raises:
            DataError: an input cannot be read; the message names it.
            UsageError: the windows do not fit the encoder.
        """
        if isinstance(inputs, str | bytes | Path):
            inputs = [inputs]
        if window is None:
            if hop is not None or skip_bad:
                raise UsageError("hop and skip_bad are for windows: say how long they are")
            return super().embed(inputs, batch_size=batch_size, progress=progress)
        hop = window if hop is None else hop
        self._check(window, hop)
        skipped: dict[int, str] = {}
        rows, places = list[np.ndarray](), list[tuple[int, float]]()
        with _bar(len(inputs), progress) as advance:
            lengths, told = (window, hop), skipped if skip_bad else None
            windows = _windows(self.preprocess, inputs, lengths, told)
            while several := list(islice(windows, batch_size)):
                samples = [sample for _, _, sample in several]
                rows.append(super().embed(samples, batch_size=batch_size, progress=False))
                places += [(number, start) for number, start, _ in several]
                advance(several[-1][0])
        good = [number not in skipped for number, _ in places]  # the damage may come late
        features = np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)
        kept = list(compress(places, good))
        return WindowFeatures(
            features=features[good],
            inputs=np.array([number for number, _ in kept], np.int64),
            starts=np.array([start for _, start in kept], np.float64),
            skipped=skipped,
        )

    def _check(self, window: float, hop: float) -> None:
        if window <= 0 or hop <= 0:
            raise UsageError(f"window and hop must be above 0 seconds, not {window:g} and {hop:g}")
        most = self.preprocess.seconds
        if most is not None and window > most:
            raise UsageError(f"a window of {window:g} s: the encoder takes {most:g} s at most")


def _windows(
    preprocess: SoundPreprocess,
    inputs: Sequence[Raw],
    lengths: tuple[float, float],
    skipped: dict[int, str] | None,
) -> Iterator[tuple[int, float, Sample]]:
    """(number of the input, seconds, sample) of every window; `skipped` takes what is wrong."""
    for number, raw in enumerate(inputs):
        try:
            for start, window in cut(preprocess.open(raw), *lengths):
                yield number, start, {"audio": window}
        except DataError as error:
            if skipped is None:
                raise
            skipped[number] = str(error)


@contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """Inputs done, for a person who watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = progress is False or (progress is None and not console.is_terminal)
    with Progress(console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task("embedding", total=total)
        yield lambda done: bar.update(task, completed=done)
