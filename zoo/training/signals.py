"""SIGINT, SIGTERM and SIGUSR1 as a wish: the loop ends after a step, with its state saved."""

import signal
from types import FrameType, TracebackType
from typing import Self

__all__ = ["StopSignals"]

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Remembers the first signal while it is entered; a second Ctrl-C stops at once.

    SIGTERM may come several times, from a scheduler and from torchrun, and means the same; so does
    SIGUSR1, Slurm's usual warning before the time is up.

    Attributes:
        came: the first signal's name.
    """

    def __init__(self) -> None:
        self.came: str | None = None

    def __enter__(self) -> Self:
        try:
            self._before = {number: signal.signal(number, self._ask) for number in _ASKING}
        except ValueError:  # not in the main thread: then signals are somebody else's business
            self._before = {}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.came and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = self.came or signal.Signals(number).name
