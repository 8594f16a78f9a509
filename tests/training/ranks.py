"""Several processes of one run, without torchrun's seconds of start-up."""

import multiprocessing
import os
import signal
import socket
import time

import zoo.pretraining  # noqa: F401 - once, and not in every child

__all__ = ["Ranks"]


class Ranks:
    """Processes with the environment that torchrun gives; forked, so that imports cost nothing."""

    def __init__(self, size, work, *args):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")
        self.queue = context.SimpleQueue()
        self.processes = [
            context.Process(target=self._run, args=(rank, size, port, work, args))
            for rank in range(size)
        ]
        for process in self.processes:
            process.start()

    def _run(self, rank, size, port, work, args):
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        }  # fmt: skip
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            result = work(*args)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        self.queue.put((rank, result))

    def results(self, timeout=120, expect=None):
        """What each process returned, by rank; errors as text."""
        found, deadline = {}, time.monotonic() + timeout
        expect = len(self.processes) if expect is None else expect
        while len(found) < expect and time.monotonic() < deadline:
            if self.queue.empty():
                time.sleep(0.02)
                continue
            rank, result = self.queue.get()
            found[rank] = result
        for process in self.processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()
        return found
