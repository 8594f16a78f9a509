"""One writer: a lock that the system drops when the process that holds it ends, however it ends.

The file says who holds it, for people; nobody decides anything by what it says. File systems that
know no such locks are refused: a lock of files and signs of life cannot be taken over from the dead
without a moment in which two processes believe to hold it.
"""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import BusyError, StorageError
from zoo.files import storage_errors

__all__ = ["locked"]

_LONGEST = 200  # bytes of what the file says that are shown
_held: set[int] = set()


def _let_go() -> None:
    """A child that outlives its parent, such as a loader's worker, must not keep the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(file: Path, doing: str) -> Iterator[None]:
    """Holds the lock.

    Args:
        file: made if need be, and left there.
        doing: what only one process may do, for the message of the others.

    Raises:
        BusyError: another process holds it; says which.
        StorageError: the file cannot be made, or the file system knows no locks.
    """
    with storage_errors(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        _take(descriptor, file, doing)
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


def _take(descriptor: int, file: Path, doing: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        said = os.read(descriptor, _LONGEST).decode(errors="replace")
        holder = "".join(c for c in said if c.isprintable())
        who = f" ({holder})" if holder else ""
        raise BusyError(f"{file.parent}: another process is {doing}{who}") from None
    except OSError as error:
        raise StorageError(
            f"{file}: this file system knows no locks ({error.strerror}), so two processes could "
            "write there; choose another folder, or mount it with locks (flock)"
        ) from None
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    holder = f"pid {os.getpid()} on {socket.gethostname()} since {since}"
    with storage_errors(file):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, holder.encode())
