"""A folder of shards in the making: one builder at a time, and never two things in one folder."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.data.shard.indexing import SUFFIX
from zoo.data.shard.write import MANIFEST
from zoo.errors import BusyError, UsageError
from zoo.files import storage_errors, sweep_temporary, write_atomic

__all__ = ["NOTE", "RECORD", "claimed"]

RECORD, NOTE = "build.json", ".note.json"
_IN_USE = "already holds shards; choose another folder or remove it"
_UNFINISHED = (
    "holds unfinished shards of other samples or options; finish them with the command that began "
    "them, or remove the folder"
)


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """The folder, made and swept. If nothing goes wrong it counts as finished afterwards.

    Args:
        folder: where the shards go.
        what: all that they depend on: who comes with the same continues.

    Raises:
        UsageError: it holds shards, or the beginning of something else.
        BusyError: another process builds there.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        record = folder / RECORD
        content = json.dumps({"sha256": hashlib.sha256(what.encode()).hexdigest()}) + "\n"
        begun = record.exists()
        same = begun and record.read_bytes() == content.encode()
        if not same and ((folder / MANIFEST).exists() or any(folder.glob("*.tar"))):
            raise UsageError(f"{folder}: {_UNFINISHED if begun else _IN_USE}")
        sweep_temporary(folder)
        write_atomic(record, content)
        try:
            yield
        except BaseException:
            sweep_temporary(folder)
            if not any(folder.glob("*.tar")):
                _clear(folder)
            raise
        _clear(folder)


def _clear(folder: Path) -> None:
    """Removes what only an unfinished folder needs; the record last."""
    for path in folder.glob(f"[0-9]*{NOTE}"):
        path.unlink()
    for path in folder.glob(f"[0-9]*.tar{SUFFIX}"):
        if not path.with_suffix("").exists():  # its writer was stopped just before the last step
            path.unlink()
    (folder / RECORD).unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The system drops the lock when the process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"{folder}: another process is building shards there") from None
        except OSError:  # some network file systems know no locks of folders
            pass
        yield
    finally:
        os.close(descriptor)
