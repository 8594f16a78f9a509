"""The checkpoints of a run: complete or absent, verified before they are trusted, a few kept.

Each is written under a temporary name and renamed. What it consists of: zoo.training.stored.
"""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from zoo.errors import IntegrityError, StorageError, ZooError
from zoo.files import atomic_folder, storage_errors, sweep_temporary
from zoo.training.divided import load_parts, save_parts
from zoo.training.stored import (
    SHARDS,
    Checkpoint,
    load,
    newest_first,
    state_of,
    step_of,
    verify,
    write,
)
from zoo.training.world import ALONE, World

__all__ = ["Checkpoint", "Checkpoints"]

_log = logging.getLogger("zoo")
_SPARE = 1.1  # room that there has to be, in sizes of what is saved


class Checkpoints:
    """The checkpoints of one run. One run at a time may hold this."""

    def __init__(
        self,
        folder: Path,
        *,
        keep: int,
        world: World = ALONE,
        keep_every: int | None = None,
        keep_best: bool = False,
        background: bool = False,
    ) -> None:
        """Makes the folder.

        Args:
            folder: of all checkpoints.
            keep: how many of the newest stay.
            world: who saves together.
            keep_every: checkpoints of these steps stay too.
            keep_best: and the one whose `state["loss"]` is lowest.
            background: `save` returns when the tensors are copied; their room stays taken.
        """
        self.folder, self.world = folder, world
        self.keep, self.keep_every, self.keep_best = keep, keep_every, keep_best
        self._writer = ThreadPoolExecutor(1, "zoo-checkpoint") if background else None
        self._pending: Future[None] | None = None
        self._copies: dict[str, Tensor] = {}
        # Beside the training the writer talks to the others in a group of its own.
        self._group = world.another_group() if background else None
        world.on_main(self._begin)

    def _begin(self) -> None:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(self.folder)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes one, then removes those that need not stay.

        Raises:
            StorageError: it could not be written; the newest of the others is untouched. In the
                background this is said in the log, and raised by `wait`.
        """
        if self._writer is None:
            self._write(checkpoint)
            return
        try:
            self.wait()
        except StorageError as error:
            _log.error("%s; training goes on from memory, the previous checkpoint is whole", error)
        copied = replace(
            checkpoint,
            tensors={
                stem: {name: self._copy(f"{stem}/{name}", t) for name, t in tensors.items()}
                for stem, tensors in checkpoint.tensors.items()
            },
            shards={name: self._copy(name, t) for name, t in checkpoint.shards.items()},
        )
        self._pending = self._writer.submit(self._write, copied)

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            StorageError: the last one could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """The values now, safe from the next update; on the host, where it is whole.

        Copies go where those of the last time were: touching fresh memory takes the longest.
        """
        tensor = tensor.detach()
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            device = tensor.device if isinstance(tensor, DTensor) else "cpu"
            copy = torch.empty_like(tensor, device=device)
            self._copies[name] = copy
        return copy.copy_(tensor)

    def _write(self, checkpoint: Checkpoint) -> None:
        path = self.folder / f"step-{checkpoint.step}"
        draft = path.with_name(f".tmp-{path.name}")
        self._on_main(lambda: self._prepare(checkpoint, draft))
        if checkpoint.shards:
            try:
                with storage_errors(path):
                    save_parts(checkpoint.shards, draft / SHARDS, self._group)
            except StorageError:
                if self.world.is_main:
                    shutil.rmtree(draft, ignore_errors=True)
                raise
        self._on_main(lambda: self._commit(checkpoint, path, draft))

    def _on_main(self, action: Callable[[], None]) -> None:
        """As `World.on_main`, in the writer's own group."""
        error: list[Exception | None] = [None]
        if self.world.is_main:
            try:
                action()
            except Exception as found:
                error = [found]
        if self.world.size > 1:
            dist.broadcast_object_list(error, group=self._group)
        if error[0] is not None:
            raise error[0]

    def _prepare(self, checkpoint: Checkpoint, draft: Path) -> None:
        """An empty folder to write to, on a disk with room; one that is gone is not made again."""
        needed = int(_SPARE * checkpoint.size)
        with storage_errors(self.folder):
            shutil.rmtree(draft, ignore_errors=True)
            for old in reversed(self._superfluous(coming=1)):
                if shutil.disk_usage(self.folder).free < needed:
                    _log.warning("%s: the disk is nearly full, so it goes early", old)
                    self._remove(old)
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise StorageError(
                    f"{self.folder}: the disk has room for {free / 1e6:,.0f} MB, but step "
                    f"{checkpoint.step} needs {needed / 1e6:,.0f}: free some space and run the "
                    "same command again"
                )
            draft.mkdir()

    def _commit(self, checkpoint: Checkpoint, path: Path, draft: Path) -> None:
        """What one process writes, and the rename that makes it count."""
        with atomic_folder(path, draft):
            write(checkpoint, draft)
            if path.exists():  # the same step once more
                self._remove(path)
        for old in self._superfluous():
            self._remove(old)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole, checked by one process; damaged ones are set aside.

        Raises:
            IntegrityError: there are checkpoints, but none is whole.
            UsageError: a newer zoo wrote it.
        """
        path = self.world.on_main(self._newest_whole)
        return None if path is None else load(path)

    def _newest_whole(self) -> Path | None:
        damaged: list[tuple[Path, ZooError]] = []
        for path in newest_first(self.folder):
            try:
                verify(path)
            except IntegrityError as error:
                damaged.append((path, error))
                continue
            for bad, reason in damaged:
                aside = bad.with_name(f".bad-{bad.name}")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
                _log.warning("%s; set aside as %s", reason, aside.name)
            return path
        if damaged:  # they stay where they are, lest the next start takes the run for a new one
            raise IntegrityError(
                f"{self.folder}: none of {len(damaged)} checkpoints is whole ({damaged[0][1]}); "
                "start a new run elsewhere"
            )
        return None

    def fill(self, checkpoint: Checkpoint, shards: dict[str, Tensor]) -> None:
        """Reads a checkpoint's shards into tensors of this process's parts, in place.

        Raises:
            RuntimeError: they are of other sizes.
        """
        assert checkpoint.path is not None
        load_parts(shards, checkpoint.path / SHARDS, self._group)

    def _superfluous(self, coming: int = 0) -> list[Path]:
        """Those beyond the newest that no rule keeps, once so many more are there."""
        paths = newest_first(self.folder)
        old = paths[max(1, self.keep - coming) :]
        if self.keep_every:
            old = [path for path in old if step_of(path) % self.keep_every]
        if self.keep_best and old:
            best = min(paths, key=_loss)
            old = [path for path in old if path != best]
        return old

    def _remove(self, path: Path) -> None:
        """By rename first, so that a half-removed folder is never taken for a checkpoint."""
        doomed = path.with_name(f".tmp-del-{path.name}")
        with storage_errors(path):
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed)


def _loss(path: Path) -> float:
    try:
        loss = state_of(path).get("loss")
    except (OSError, ZooError):
        loss = None
    return loss if isinstance(loss, int | float) else float("inf")
