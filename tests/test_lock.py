"""One writer a folder: the others are told who it is, and the dead hold nothing."""

import errno
import fcntl
import multiprocessing
import os
import signal
import socket
import time

import pytest

from zoo.errors import BusyError, StorageError
from zoo.lock import locked
from zoo.pretraining import LOCK

FORK = multiprocessing.get_context("fork")


def test_the_holder_is_named(tmp_path):
    who = rf"pid {os.getpid()} on {socket.gethostname()} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with (
        locked(tmp_path / LOCK, "writing this run"),
        pytest.raises(BusyError, match=rf"another process is writing this run \({who}\)"),
        locked(tmp_path / LOCK, "writing this run"),
    ):
        pass
    with locked(tmp_path / LOCK, "writing this run"):
        pass
    assert BusyError.run_exit_code == 73


def compete(file, barrier, pipe):
    barrier.wait()
    try:
        with locked(file, "writing"):
            pipe.send("won")
            barrier.wait()
    except BusyError:
        pipe.send("busy")
        barrier.wait()


def test_of_several_that_begin_together_one_wins(tmp_path):
    for number in range(20):
        barrier = FORK.Barrier(4)
        pipes = [FORK.Pipe(duplex=False) for _ in range(4)]
        runs = [
            FORK.Process(target=compete, args=(tmp_path / str(number), barrier, end))
            for _, end in pipes
        ]
        for run in runs:
            run.start()
        assert sorted(pipe.recv() for pipe, _ in pipes) == ["busy"] * 3 + ["won"]
        for run in runs:
            run.join()


def test_the_dead_hold_nothing(tmp_path):
    """Even where a child of theirs lives on, as loader workers do for a while."""
    ready, said = os.pipe()
    holder = os.fork()
    if holder == 0:
        with locked(tmp_path / LOCK, "writing"):
            if child := os.fork():
                os.write(said, str(child).encode())
            time.sleep(60)
    child = int(os.read(ready, 20))
    with pytest.raises(BusyError), locked(tmp_path / LOCK, "writing"):
        pass
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        with locked(tmp_path / LOCK, "writing"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("said", [b"", b"\xff\n\x1b[31m", b"x" * 5000])
def test_whatever_the_file_says_it_is_only_shown(tmp_path, said):
    (tmp_path / LOCK).write_bytes(said)
    os.utime(tmp_path / LOCK, (0, 0))
    with (tmp_path / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError) as caught, locked(tmp_path / LOCK, "writing"):
            pass
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    with locked(tmp_path / LOCK, "writing"):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_without_locks_are_refused(tmp_path, monkeypatch, number):
    def unknown(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unknown)
    refusal = pytest.raises(StorageError, match=r"run\.lock: this file system knows no locks")
    with refusal, locked(tmp_path / LOCK, "writing"):
        pass
