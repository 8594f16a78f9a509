"""The processes of one run: who this one is, and how they agree.

One process needs nothing of this. Under `torchrun` the same command joins the others: gloo on the
CPU, NCCL on GPUs, and gloo beside it for what the host must know, so that the GPU never waits.
"""

import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.distributed_c10d import _set_pg_timeout
from torch.distributed.rendezvous import rendezvous

from zoo.errors import WorkerError, ZooError
from zoo.training.alive import Alive

__all__ = ["ALONE", "World", "is_lost", "joined"]

T = TypeVar("T")
_PAUSE = 0.01  # seconds between two looks for who has come
_PATIENCE = timedelta(minutes=30)  # with a process that writes or reads what others wait for

# The last group that was left. If whatever used it, DDP for one, were the last to hold it, it would
# be freed with Python's lock held, and wait for a thread of its own that may need that lock.
_left: deque[dist.ProcessGroup | None] = deque(maxlen=1)


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
        timeout: after which a process that does not answer counts as dead.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1
    timeout: timedelta = _PATIENCE

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
        values = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def another_group(self) -> dist.ProcessGroup | None:
        """All processes once more, on the host, for a thread that talks while the training does.

        They must come within `timeout`; torch's own 30 minutes would be spent waiting for one that
        died on the way. Later, each may take its time.
        """
        if self.size == 1:
            return None
        group = self.in_time(lambda: dist.new_group(backend="gloo", timeout=self.timeout))
        _set_pg_timeout(_PATIENCE, group)
        return group

    def in_time(self, action: Callable[[], T]) -> T:
        """The result of something that all do together, or RuntimeError after `timeout`.

        For the making of groups: whatever timeout gloo is given, it may wait for minutes for a
        process that died while they connected. The thread that waits is left behind.
        """
        return _in_time(action, self.timeout)

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
    patience = timedelta(seconds=timeout)
    try:
        store, rank = _met(patience)
        join = partial(dist.init_process_group, backend, store=store, rank=rank, world_size=size)
        _in_time(lambda: join(timeout=patience), patience)
    except (RuntimeError, ValueError) as error:
        raise WorkerError(
            f"rank {os.environ.get('RANK')}: the {size} processes of the run did not meet within "
            f"{timeout:g} s ({str(error).splitlines()[0]})"
        ) from None
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    try:
        with Alive(store, rank, size) as alive, warnings.catch_warnings():
            # Of parameters with an axis of length 1, where two layouts are the same.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            try:
                yield World(place, rank, size, local_size, patience)
            except ZooError:
                raise
            except RuntimeError as error:
                if not is_lost(error):
                    raise
                raise WorkerError(
                    f"rank {rank}: another process of the run died or hangs ({alive.culprits()}); "
                    "the same command continues from the last checkpoint"
                ) from error
    finally:
        _left.append(dist.group.WORLD)
        dist.destroy_process_group()


def _in_time(action: Callable[[], T], timeout: timedelta) -> T:
    result: Future[T] = Future()

    def act() -> None:
        try:
            result.set_result(action())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=act, name="zoo-in-time", daemon=True).start()
    try:
        return result.result(timeout.total_seconds())
    except TimeoutError:
        raise RuntimeError("timed out while the processes connected") from None


def _met(timeout: timedelta) -> tuple[PrefixStore, int]:
    """A store that only the processes of this attempt use, and this one's rank.

    torchrun restarts a group on the store of the one that died, where gloo would find addresses of
    the dead. Its count of restarts is no name for an attempt, as nodes count differently. So rank 0
    makes one up, and answers everybody who asks with a word that nobody has used before.
    """
    shared, rank, size = next(rendezvous("env://", timeout=timeout))
    store, own = PrefixStore("zoo", shared), uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", own)
        attempt = store.get(own).decode()
        store.set(f"{attempt}/{rank}", "")
        return PrefixStore(attempt, store), rank
    absent, deadline = set(range(1, size)), time.monotonic() + timeout.total_seconds()
    while absent:
        for other in absent:
            if store.check([f"asks/{other}"]):  # perhaps by one that is dead: it harms nobody
                store.set(store.get(f"asks/{other}").decode(), own)
        absent = {other for other in absent if not store.check([f"{own}/{other}"])}
        if time.monotonic() > deadline:
            raise RuntimeError(f"missing: rank {', '.join(map(str, sorted(absent)))}")
        time.sleep(_PAUSE)
    return PrefixStore(own, store), rank


def is_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone."""
    said = str(error).lower()
    signs = ("connection closed", "connection reset", "timed out", "timeout", "broken pipe", "nccl")
    return isinstance(error, dist.DistError) or any(sign in said for sign in signs)
