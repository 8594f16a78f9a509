"""Signs of life of the processes of one run, so that the one that died can be named.

Each process counts up in the store that all share. A failed collective only says that somebody is
gone: often a neighbour that has failed itself, because of a third one.
"""

import threading
import time
from types import TracebackType

from torch._C._distributed_c10d import PrefixStore, Store

__all__ = ["Alive"]

_BEAT = 0.2  # seconds between two signs of life
_SILENCE = 1.0  # seconds without one that make a process missing
_LEFT, _HARMED = "left: ", "harmed"


class Alive:
    """The pulse of this process while it is entered, and a look at those of the others."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        """Takes a connection of its own: one that waits for an answer would stop the pulse.

        Args:
            store: that all processes of the run share.
            rank: of this process.
            size: how many there are.
        """
        self._store = PrefixStore("alive", store.clone())  # type: ignore[attr-defined]
        self._rank, self._size = rank, size
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="zoo-alive", daemon=True)
        self._harmed = False

    def __enter__(self) -> "Alive":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaves the reason to those who find this process gone."""
        self._over.set()
        self._thread.join(timeout=_SILENCE)
        if not self._harmed:
            self._say(_LEFT + (f"{kind.__name__}: {error}" if kind else "it was done"))

    def culprits(self) -> str:
        """Who is gone, and why if that is known; within a second.

        Those who ask are not the culprits that others look for.
        """
        self._harmed = True
        self._over.set()
        try:
            self._thread.join(timeout=_SILENCE)
            self._say(_HARMED)
            before = now = self._signs()
            silent = {rank for rank, sign in before.items() if sign != _HARMED}
            deadline = time.monotonic() + _SILENCE
            while silent and not _reasons(now) and time.monotonic() < deadline:
                time.sleep(_BEAT / 4)
                now = self._signs()
                silent = {rank for rank in silent if now[rank] == before[rank]}
        except RuntimeError:
            return "rank 0 or torchrun, whichever kept the store"
        return "; ".join(_reasons(now) or (f"rank {rank}" for rank in silent)) or "unknown"

    def _beat(self) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            self._say(str(count))
            self._over.wait(_BEAT)

    def _say(self, sign: str) -> None:
        try:
            self._store.set(str(self._rank), sign)
        except RuntimeError:  # whoever kept the store is gone, and so will be this process
            self._over.set()

    def _signs(self) -> dict[int, str]:
        others = [rank for rank in range(self._size) if rank != self._rank]
        known = {rank: self._store.check([str(rank)]) for rank in others}
        return {rank: self._store.get(str(rank)).decode() if known[rank] else "" for rank in others}


def _reasons(signs: dict[int, str]) -> list[str]:
    return [
        f"rank {rank}: {sign.removeprefix(_LEFT)}"
        for rank, sign in signs.items()
        if sign.startswith(_LEFT)
    ]
