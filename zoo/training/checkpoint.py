"""Checkpoints that are complete or absent, and verified before they are trusted.

A checkpoint is a folder `step-N`: safetensors files, state.json, manifest.json with the digest of
each file, and an empty COMMITTED. It is written under a temporary name and renamed. Digests are no
luxury: safetensors and torch.save load nine of ten files with a flipped bit without a word.

Where parameters are divided among processes, each writes its part into `shards/` by
torch.distributed.checkpoint, and any other number of processes can read them.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from zoo.errors import IntegrityError, StorageError
from zoo.files import (
    atomic_folder,
    save_tensors,
    sha256_of,
    storage_errors,
    sweep_temporary,
)
from zoo.training.world import ALONE, World

__all__ = ["Checkpoint", "Checkpoints"]

_log = logging.getLogger("zoo")
_STATE, _MANIFEST, _COMMITTED, _SHARDS = "state.json", "manifest.json", "COMMITTED", "shards"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One saved moment of a run."""

    step: int
    state: dict[str, object]  # what JSON can hold
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # file stem -> tensors
    shards: dict[str, Tensor] = field(default_factory=dict)  # DTensors, each process its part
    path: Path | None = None  # where it was read from


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
            background: `save` returns when the tensors are copied.
        """
        self.folder, self.world = folder, world
        self.keep, self.keep_every, self.keep_best = keep, keep_every, keep_best
        self._writer = ThreadPoolExecutor(1, "zoo-checkpoint") if background else None
        self._pending: Future[None] | None = None
        # The writer talks to the others while the training does: it needs a group of its own.
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None
        world.on_main(self._begin)

    def _begin(self) -> None:
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(self.folder)

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes one, then removes those that need not stay.

        Raises:
            StorageError: it could not be written; the previous ones are untouched. In the
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
            tensors={stem: _copied(tensors) for stem, tensors in checkpoint.tensors.items()},
            shards={n: t.detach().clone() for n, t in checkpoint.shards.items()},
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

    def _write(self, checkpoint: Checkpoint) -> None:
        path = self.folder / f"step-{checkpoint.step}"
        draft = path.with_name(f".tmp-{path.name}-{checkpoint.step}")
        if checkpoint.shards:
            self._on_main(lambda: shutil.rmtree(draft, ignore_errors=True))
            with storage_errors(path):
                # Reads and writes tensors in place; its metadata is a pickle that we wrote.
                save_shards(
                    checkpoint.shards,
                    checkpoint_id=draft / _SHARDS,
                    process_group=self._group,
                )
        self._on_main(lambda: self._commit(checkpoint, path, draft))

    def _on_main(self, action: Callable[[], None]) -> None:
        """As `World.on_main`, in the writer's own group."""
        error: list[Exception | None] = [None]
        if self.world.is_main:
            try:
                action()
            except Exception as found:
                error = [found]
        if self._group is not None:
            dist.broadcast_object_list(error, group=self._group)
        if error[0] is not None:
            raise error[0]

    def _commit(self, checkpoint: Checkpoint, path: Path, draft: Path) -> None:
        """What one process writes, and the rename that makes it count."""
        with atomic_folder(path, draft):
            for stem, tensors in checkpoint.tensors.items():
                save_tensors(draft / f"{stem}.safetensors", tensors)
            (draft / _STATE).write_text(json.dumps(checkpoint.state))
            manifest = {
                file.relative_to(draft).as_posix(): {
                    "sha256": sha256_of(file),
                    "bytes": file.stat().st_size,
                }
                for file in sorted(draft.rglob("*"))
                if file.is_file()
            }
            (draft / _MANIFEST).write_text(json.dumps(manifest))
            (draft / _COMMITTED).touch()
            if path.exists():  # a resumed run may reach a step again that a damaged one claims
                self._remove(path)
        for old in self._superfluous():
            self._remove(old)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole, checked by one process; damaged ones are set aside.

        Raises:
            IntegrityError: there are checkpoints, but none is whole.
        """
        path = self.world.on_main(self._newest_whole)
        return None if path is None else _load(path)

    def _newest_whole(self) -> Path | None:
        paths = self._newest_first()
        for path in paths:
            try:
                _verify(path)
                return path
            except (OSError, ValueError, KeyError, TypeError, IntegrityError) as error:
                aside = path.with_name(f".bad-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                _log.warning("%s; set aside as %s", error, aside.name)
        if paths:
            raise IntegrityError(
                f"{self.folder}: none of {len(paths)} checkpoints is whole; start a new run "
                "elsewhere"
            )
        return None

    def fill(self, checkpoint: Checkpoint, shards: dict[str, Tensor]) -> None:
        """Reads a checkpoint's shards into tensors of this process's parts, in place."""
        assert checkpoint.path is not None
        load_shards(shards, checkpoint_id=checkpoint.path / _SHARDS, process_group=self._group)

    def _superfluous(self) -> list[Path]:
        """Those beyond the newest that no rule keeps."""
        paths = self._newest_first()
        old = paths[self.keep :]
        if self.keep_every:
            old = [path for path in old if _step(path) % self.keep_every]
        if self.keep_best:
            best = min(paths, key=_loss)
            old = [path for path in old if path != best]
        return old

    def _newest_first(self) -> list[Path]:
        found = [
            path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)
        ]
        return sorted(found, key=_step, reverse=True)

    def _remove(self, path: Path) -> None:
        """By rename first, so that a half-removed folder is never taken for a checkpoint."""
        doomed = path.with_name(f".tmp-del-{path.name}")
        with storage_errors(path):
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed)


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the host, and safe from the next update."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _loss(path: Path) -> float:
    try:
        return float(json.loads((path / _STATE).read_text())["loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return float("inf")


def _verify(path: Path) -> None:
    if not (path / _COMMITTED).exists():
        raise IntegrityError(f"{path}: never completed")
    manifest: Mapping[str, Mapping[str, object]] = json.loads((path / _MANIFEST).read_text())
    for name, facts in manifest.items():
        file = path / name
        if not file.exists() or file.stat().st_size != facts["bytes"]:
            raise IntegrityError(f"{file}: missing or of another size than written")
        if sha256_of(file) != facts["sha256"]:
            raise IntegrityError(f"{file}: damaged, its sha256 is not the one written")
    json.loads((path / _STATE).read_text())


def _load(path: Path) -> Checkpoint:
    manifest = json.loads((path / _MANIFEST).read_text())
    tensors = {
        file.stem: load_file(file) for file in path.glob("*.safetensors") if file.name in manifest
    }
    state = json.loads((path / _STATE).read_text())
    return Checkpoint(_step(path), state, tensors, path=path)
