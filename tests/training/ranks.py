"""Several processes of one run, without torchrun's seconds of start-up."""

import faulthandler
import multiprocessing
import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress

from torch.distributed import TCPStore

# What the work needs, once and not in every child.
import zoo.pretraining  # isort: skip
import numpy.ma  # isort: skip  # noqa: F401
import torch._dynamo  # isort: skip  # noqa: F401
import fsspec.core  # isort: skip  # noqa: F401
import zoo.modalities.vision.vit  # isort: skip
import zoo.objectives.mae  # isort: skip  # noqa: F401

__all__ = ["Ranks", "kept_store", "wait_for"]
_fork = multiprocessing.get_context("fork")


@contextmanager
def kept_store():
    """The port of a store that outlives the processes that meet there, as torchrun's does.

    In a process of its own: its threads hold locks, and children forked beside them might hang.
    """
    here, there = _fork.Pipe()
    keeper = _fork.Process(target=_keep, args=(here, there))
    keeper.start()
    there.close()
    try:
        yield here.recv()
    finally:
        keeper.kill()
        keeper.join()
        here.close()


def _keep(others, pipe):
    others.close()
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    pipe.send(store.port)
    with suppress(EOFError):  # when nobody needs it any more, not even to end it
        pipe.recv()


class Ranks:
    """Processes with the environment that torchrun gives; forked, so that imports cost nothing.

    Those that meet at the `port` of a store are restarts of each other.
    """

    def __init__(self, size, work, *args, port=None, nodes=1):
        self._stack = ExitStack()
        self.port = port or self._stack.enter_context(kept_store())
        self.processes, self.pipes = [], []
        for rank in range(size):
            pipe, end = _fork.Pipe(duplex=False)
            process = _fork.Process(target=self._run, args=(rank, size, nodes, end, work, args))
            process.start()
            end.close()  # so that no later process keeps it open
            self.processes.append(process)
            self.pipes.append(pipe)

    def _run(self, rank, size, nodes, pipe, work, args):
        local = size // nodes
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank % local), "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(local), "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        }  # fmt: skip
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.register(signal.SIGUSR2)  # says on stderr where every thread is
        try:
            result = work(*args)
        except (Exception, KeyboardInterrupt) as error:
            result = f"{type(error).__name__}: {error}"
        pipe.send(result)

    def kill(self, rank, number=signal.SIGKILL):
        """Sends a signal to one of them."""
        os.kill(self.processes[rank].pid, number)

    def wait(self, seconds):
        """Until one of them ends, or for so long."""
        deadline = time.monotonic() + seconds
        # Not by their sentinels, which the workers of a killed process keep open.
        while all(process.is_alive() for process in self.processes):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)

    def end(self, rank):
        """Kills one, and tells the others to end, as torchrun does; whether it was alive."""
        process = self.processes[rank]
        process.kill()
        process.join()
        for other in self.processes:
            other.terminate()
        return process.exitcode == -signal.SIGKILL

    def results(self, timeout=120):
        """What each process returned, by rank; as text if it is an error."""
        deadline = time.monotonic() + timeout
        found = {}
        for rank, (process, pipe) in enumerate(zip(self.processes, self.pipes, strict=True)):
            while process.is_alive() and not pipe.poll() and time.monotonic() < deadline:
                time.sleep(0.01)
            with suppress(EOFError):
                if pipe.poll():
                    found[rank] = pipe.recv()
            process.join(10)
            if process.is_alive():
                found[rank] = "hangs"
                self.kill(rank, signal.SIGUSR2)
                time.sleep(1)
                process.kill()
                process.join()
            pipe.close()
        self._stack.close()
        return found


def wait_for(condition, seconds=60):
    """Until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
