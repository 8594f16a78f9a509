"""Runs fetching ahead of training: in processes, in threads, or right here, with equal results.

A worker that dies or hangs is an error within seconds that names its sample, never a hang.
"""

import copy
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from zoo.data.fetch import Fetch, Fetched, Place
from zoo.errors import WorkerError
from zoo.registry.recipe import LoaderRecipe

__all__ = ["run_tasks"]

Task = Sequence[Place]
_GRACE = 10.0  # seconds from SIGTERM to the end of a worker


def run_tasks(
    fetch: Fetch, tasks: Callable[[], Iterator[Task]], recipe: LoaderRecipe
) -> Generator[Fetched]:
    """Results of tasks, in their order.

    Raises:
        WorkerError: a worker died, or gave nothing for `recipe.timeout` seconds.
    """
    workers = recipe.workers
    if workers is None:
        workers = min(8, max(1, (os.cpu_count() or 1) - 1))
    if workers == 0:
        return _here(fetch, tasks)
    if recipe.worker_kind == "thread":
        return _threads(fetch, tasks, workers, recipe)
    return _processes(fetch, tasks, workers, recipe)


def _here(fetch: Fetch, tasks: Callable[[], Iterator[Task]]) -> Generator[Fetched]:
    in_hand = np.zeros(2, np.int64)
    for task in tasks():
        yield fetch(task, in_hand)


def _threads(
    fetch: Fetch, tasks: Callable[[], Iterator[Task]], workers: int, recipe: LoaderRecipe
) -> Generator[Fetched]:
    """For decoders that release Python's lock: nothing crosses processes."""
    own = threading.local()

    def run(task: Task) -> Fetched:
        if not hasattr(own, "fetch"):  # open files and memory are not shared between threads
            own.fetch = replace(fetch, samples=copy.deepcopy(fetch.samples))
            own.in_hand = np.zeros(2, np.int64)
        return own.fetch(task, own.in_hand)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="zoo-loader")
    running: deque[Future[Fetched]] = deque()
    patient = True
    try:
        for task in tasks():
            running.append(pool.submit(run, task))
            if len(running) > workers * recipe.prefetch:
                yield _result(running.popleft(), recipe.timeout)
        while running:
            yield _result(running.popleft(), recipe.timeout)
    except WorkerError:
        patient = False  # a thread that hangs cannot be ended, and is not waited for
        raise
    finally:
        pool.shutdown(wait=patient, cancel_futures=True)


def _result(future: Future[Fetched], timeout: float) -> Fetched:
    try:
        return future.result(timeout)
    except TimeoutError:
        if future.done():
            raise
        raise WorkerError(f"no batch for {timeout:g} s: a loader thread hangs") from None


class _Tasks(Dataset[Fetched]):
    """A task -> its result; leaves what it works on where the main process can read it."""

    def __init__(self, fetch: Fetch, workers: int) -> None:
        self.fetch = fetch
        self.in_hand = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_()

    def __getitem__(self, task: Task) -> Fetched:
        info = get_worker_info()
        assert info is not None
        return self.fetch(task, self.in_hand[info.id].numpy())


def _as_it_is(fetched: object) -> object:
    return fetched


def _outlive_signals(worker: int) -> None:
    """Ctrl-C and Slurm signal all processes of a run: the main one still needs a batch to end well.

    Workers end when the main process lets them, or has died.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Timer(_GRACE, os._exit, (1,)).start())


@dataclass(frozen=True)
class _Sampler:
    """Hands tasks to the workers one by one."""

    tasks: Callable[[], Iterator[Task]]

    def __iter__(self) -> Iterator[Task]:
        return self.tasks()


def _processes(
    fetch: Fetch, tasks: Callable[[], Iterator[Task]], workers: int, recipe: LoaderRecipe
) -> Generator[Fetched]:
    dataset = _Tasks(fetch, workers)
    with _quiet_children(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # as was asked
        loader = DataLoader(
            dataset,
            sampler=_Sampler(tasks),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=recipe.prefetch,
            multiprocessing_context=recipe.start,
            worker_init_fn=_outlive_signals,
            generator=torch.Generator(),  # else it takes a number from the run's own, each start
            pin_memory=torch.cuda.is_available(),
        )
        results = iter(loader)
    with _watch(dataset.in_hand.numpy(), recipe.timeout) as waiting:
        while True:
            try:
                with waiting():
                    result = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):  # one that raised it says "Caught"
                    raise
                raise WorkerError(_obituary(dataset, str(error), waiting.hung)) from None
            except (OSError, EOFError) as error:
                if "Caught" in str(error):  # raised in a worker, which lives
                    raise
                # It died while it handed a batch over, and torch still took it for alive.
                raise WorkerError(_obituary(dataset, _ended(dataset), waiting.hung)) from None
            yield result


def _ended(dataset: "_Tasks") -> str:
    """The numbers of the workers that have ended, as soon as the system says so."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        alive = {process.pid for process in multiprocessing.active_children()}
        own = [row[0] for row in dataset.in_hand.tolist() if row[0] > 0]
        if dead := [str(pid) for pid in own if pid not in alive]:
            return " ".join(dead)
        time.sleep(0.01)
    return ""


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Keeps torch's handler out: it raises wherever the training loop happens to be.

    Without it a dead worker is noticed while waiting for its batch, within five seconds.
    """
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


class _Waiting:
    """Since when the main process has been waiting for a batch."""

    def __init__(self) -> None:
        self.since: float | None = None
        self.hung = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = None


@contextmanager
def _watch(in_hand: NDArray[np.int64], timeout: float) -> Iterator[_Waiting]:
    """Ends workers that give nothing for `timeout` seconds, so that waiting for them ends too."""
    waiting, over = _Waiting(), threading.Event()

    def watch() -> None:
        while not over.wait(min(1.0, timeout / 4)):
            since = waiting.since
            if since is not None and time.monotonic() - since > timeout:
                waiting.hung = True
                for process in in_hand[:, 0].tolist():
                    if process > 0:
                        os.kill(process, signal.SIGKILL)
                return

    thread = threading.Thread(target=watch, name="zoo-watchdog", daemon=True)
    thread.start()
    try:
        yield waiting
    finally:
        over.set()
        thread.join()


def _obituary(dataset: _Tasks, said: str, hung: bool) -> str:
    """What happened, and to which samples."""
    fetch = dataset.fetch
    rows = [row for row in dataset.in_hand.tolist() if row[0] > 0]
    dead = [row for row in rows if hung or str(row[0]) in said] or rows
    where = (
        "; ".join(str(fetch.samples.where(sample)) for _, sample in dead)
        or "before its first sample"
    )
    if hung:
        return f"a loader worker gave nothing for too long and was ended; it was at: {where}"
    return (
        f"a loader worker died (pid {', '.join(str(row[0]) for row in dead) or '?'}); it was at: "
        f"{where}; if memory ran out, set loader.workers lower"
    )
