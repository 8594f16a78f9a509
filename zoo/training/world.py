"""The processes of one run: who this one is, and how they agree.

One process needs nothing of this. Under `torchrun` the same command joins the others: gloo on the
CPU, NCCL on GPUs, and gloo beside it for what the host must know, so that the GPU never waits.
"""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore

from zoo.errors import WorkerError, ZooError

__all__ = ["ALONE", "World", "joined"]

T = TypeVar("T")
_BEAT = 1.0  # seconds between two signs of life


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of the run.

    Attributes:
        device: that this process computes on.
        rank: its number; 0 writes everything that is written once.
        size: how many there are.
        local_size: how many of them share this machine.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, configs and checkpoints."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers of the host over all processes."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers)
        return numbers.tolist()

    def most(self, value: int) -> int:
        """The largest of a number of the host."""
        if self.size == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all processes, in place, on its device."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def everyones(self, value: T) -> list[T]:
        """What each process has, by rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return [v for v in values if v is not None]

    def on_main(self, action: Callable[[], T]) -> T:
        """Does something in one process; all get the result, or the error."""
        if self.size == 1:
            return action()
        answer: list[T | _Failed] = [_Failed(RuntimeError())]
        if self.is_main:
            try:
                answer = [action()]
            except Exception as error:
                answer = [_Failed(error)]
        dist.broadcast_object_list(answer)
        if isinstance(answer[0], _Failed):
            raise answer[0].error
        return answer[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = World(torch.device("cpu"))


@contextmanager
def joined(device: str | None, *, timeout: float) -> Iterator[World]:
    """The world that the environment describes (torchrun's RANK, WORLD_SIZE, ...), while it lasts.

    Args:
        device: "cpu" or "cuda"; by default the GPU where there is one.
        timeout: seconds after which a process that does not answer counts as dead.

    Raises:
        WorkerError: another process died or hangs; names its rank.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{local}"
        torch.cuda.set_device(local)
    place = torch.device(name)
    if size == 1:
        yield World(place)
        return
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, dist.DistBackendError) as error:
        raise WorkerError(
            f"rank {os.environ.get('RANK')}: the {size} processes of the run did not meet within "
            f"{timeout:g} s ({str(error).splitlines()[0]})"
        ) from None
    rank, local_size = dist.get_rank(), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    try:
        with _alive(rank) as missing, warnings.catch_warnings():
            # Of parameters with an axis of length 1, where two layouts are the same.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            try:
                yield World(place, rank, size, local_size)
            except ZooError:
                raise
            except (RuntimeError, dist.DistBackendError) as error:
                if not _is_lost(error):
                    raise
                dead = ", ".join(map(str, missing(size))) or "unknown"
                raise WorkerError(
                    f"rank {rank}: another process of the run died or hangs (rank {dead}); the "
                    "same command continues from the last checkpoint"
                ) from error
    finally:
        dist.destroy_process_group()


def _is_lost(error: BaseException) -> bool:
    """Whether a collective failed because somebody is gone."""
    said = str(error).lower()
    signs = ("connection closed", "connection reset", "timed out", "timeout", "broken pipe", "nccl")
    return isinstance(error, dist.DistBackendError) or any(sign in said for sign in signs)


@contextmanager
def _alive(rank: int) -> Iterator[Callable[[int], list[int]]]:
    """Signs of life in the store that the processes share; says whose stopped."""
    store = dist.distributed_c10d._get_default_store()
    store = PrefixStore("zoo/alive", store)
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.is_set():
            count += 1
            try:
                store.set(str(rank), str(count))
            except RuntimeError:  # the store's own process is gone
                return
            over.wait(_BEAT)

    def missing(size: int) -> list[int]:
        def counts() -> list[bytes]:
            found = []
            for other in range(size):
                has = store.check([str(other)])
                found.append(store.get(str(other)) if has else b"")
            return found

        try:
            before = counts()
            time.sleep(3 * _BEAT)
            pairs = zip(before, counts(), strict=True)
        except RuntimeError:
            return []
        return [other for other, (a, b) in enumerate(pairs) if a == b and other != rank]

    thread = threading.Thread(target=beat, name="zoo-alive", daemon=True)
    thread.start()
    try:
        yield missing
    finally:
        over.set()
        thread.join(timeout=2 * _BEAT)
