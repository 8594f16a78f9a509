"""Who does the work: processes of this machine, or a Ray cluster; both call a function on jobs.

The first job that fails ends the others and its error arrives as it was raised. Results come in
any order.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.resource_tracker import ensure_running
from typing import Any, Generic, Protocol, TypeVar

from zoo.errors import UsageError, ZooError

__all__ = ["ENGINES", "Job", "run_local", "run_ray"]


class Job(Protocol):
    """Something to do; can be pickled."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a job raised, on its way out of a worker."""

    error: Exception


def run_local(
    work: Callable[[J], R], jobs: Sequence[J], workers: int | None = None
) -> Generator[R, None, None]:
    """The results of all jobs, from processes of this machine.

    Args:
        work: a function that other processes can import.
        jobs: what to do.
        workers: processes; 0 works in this one; by default one a core.

    Raises:
        ZooError: a worker died; names its job.
    """
    if workers is None:
        workers = 0 if len(jobs) == 1 else _cores()
    if workers == 0:
        yield from map(work, jobs)
        return
    todo, crew = iter(jobs), list[_Worker[J, R]]()
    try:
        for job in islice(todo, workers):
            crew.append(_Worker(work))
            crew[-1].give(job)
        busy: dict[object, _Worker[J, R]] = {worker.connection: worker for worker in crew}
        while busy:
            for ready in wait([worker.connection for worker in busy.values()]):
                worker = busy[ready]
                yield worker.take()
                following = next(todo, None)
                if following is None:
                    del busy[ready]
                else:
                    worker.give(following)
    finally:
        for worker in crew:
            worker.process.kill()  # they are idle, or nobody wants their work any more
        for worker in crew:
            worker.process.join()
            worker.connection.close()


class _Worker(Generic[J, R]):
    """A process that does one job at a time."""

    def __init__(self, work: Callable[[J], R]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork could inherit a locked lock
        self.name = ""
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        # Ctrl-C reaches every process of a terminal; only this one may act on it. The tracker that
        # every spawned process needs lifts the block when it starts, so it starts before.
        ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that nobody holds that end when the process dies

    def give(self, job: J) -> None:
        """Sends a job."""
        self.name = job.name
        with self._alive():
            self.connection.send(job)

    def take(self) -> R:
        """Waits for the result."""
        with self._alive():
            answer = self.connection.recv()
        return _opened(answer)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            self.process.join()
            raise ZooError(
                f"{self.name}: its worker process died (exit code {self.process.exitcode}; is "
                "there memory enough?); the same command continues"
            ) from None


def _serve(connection: Connection, work: Callable[[J], R]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        connection.send(_answer(work, connection.recv()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # nobody wants the result, and the next builder must be alone


def _answer(work: Callable[[J], R], job: J) -> R | _Failed:
    try:
        return work(job)
    except ZooError as error:
        return _Failed(error)
    except Exception as error:
        error.add_note(traceback.format_exc())  # tracebacks do not travel
        return _Failed(error)


def _opened(answer: R | _Failed) -> R:
    if isinstance(answer, _Failed):
        raise answer.error
    return answer


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_ray(
    work: Callable[[J], R], jobs: Sequence[J], workers: int | None = None
) -> Generator[R, None, None]:
    """The results of all jobs, by Ray Data: one task a job, again where a worker dies.

    Runs in the session that is there, else on the cluster at RAY_ADDRESS, else on a local one that
    ends with the work. All machines must see the same files under the same names.

    Args:
        work: a function that other processes can import.
        jobs: what to do.
        workers: jobs at a time; by default, or with 0, as many as there are cores.

    Raises:
        UsageError: Ray is not installed.
        ZooError: Ray gave up.
    """
    try:
        import ray
        from ray.data import DataContext, from_items
        from ray.exceptions import RayError
    except ImportError:
        raise UsageError("the engine ray needs Ray: pip install 'zoo[ray]'") from None
    workers = workers or None
    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(_session(workers))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Ray's own settings warn
            DataContext.get_current().enable_progress_bars = False
        rows = [{"job": pickle.dumps(job)} for job in jobs]
        data = from_items(rows, override_num_blocks=len(rows))
        try:
            for row in data.map(partial(_on_ray, work), concurrency=workers).iter_rows():
                yield _opened(pickle.loads(row["answer"]))
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ZooError(f"Ray gave up ({reason}); the same command continues") from None


def _on_ray(work: Callable[[J], R], row: dict[str, bytes]) -> dict[str, bytes]:
    return {"answer": pickle.dumps(_answer(work, pickle.loads(row["job"])))}


@contextmanager
def _session(workers: int | None) -> Iterator[None]:
    """Ray from here on; a cluster of our own leaves no process and no file."""
    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    with ExitStack() as stack:
        stack.callback(_forget_all_but, set(os.environ))
        options: dict[str, Any] = {}
        if address == "local":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
            options = {"num_cpus": workers, "include_dashboard": False, "_temp_dir": folder}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        stack.callback(ray.shutdown)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it opens a file and talks
        yield


def _forget_all_but(names: set[str]) -> None:
    for name in os.environ.keys() - names:  # Ray leaves some settings there
        del os.environ[name]


ENGINES = {"local": run_local, "ray": run_ray}
