"""Checkpoints that are complete or absent, and verified before they are trusted.

A checkpoint is a folder `step-N`: safetensors files, state.json, manifest.json with the digest of
each file, and an empty COMMITTED. It is written under a temporary name and renamed. Digests are
not a
luxury: safetensors and torch.save load nine of ten files with a flipped bit without a word.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import IntegrityError
from zoo.files import (
    atomic_folder,
    save_tensors,
    sha256_of,
    storage_errors,
    sweep_temporary,
)

__all__ = ["Checkpoint", "Checkpoints"]

_log = logging.getLogger("zoo")
_STATE, _MANIFEST, _COMMITTED = "state.json", "manifest.json", "COMMITTED"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One saved moment of a run."""

    step: int
    state: dict[str, object]  # what JSON can hold
    tensors: dict[str, dict[str, Tensor]]  # file stem -> tensors


class Checkpoints:
    """The checkpoints of one run. One process at a time may hold this."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder, self.keep = folder, keep
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        sweep_temporary(folder)

    def save(self, checkpoint: Checkpoint) -> Path:
        """Writes one, then removes the oldest beyond `keep`.

        Raises:
            StorageError: it could not be written; the previous ones are untouched.
        """
        path = self.folder / f"step-{checkpoint.step}"
        if path.exists():  # a resumed run may reach a step again that a damaged checkpoint claims
            self._remove(path)
        with atomic_folder(path) as draft:
            for stem, tensors in checkpoint.tensors.items():
                save_tensors(draft / f"{stem}.safetensors", tensors)
            (draft / _STATE).write_text(json.dumps(checkpoint.state))
            manifest = {
                file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size}
                for file in sorted(draft.iterdir())
            }
            (draft / _MANIFEST).write_text(json.dumps(manifest))
            (draft / _COMMITTED).touch()
        for old in self._newest_first()[self.keep :]:
            self._remove(old)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest that is whole; damaged ones are set aside with a warning.

        Raises:
            IntegrityError: there are checkpoints, but none is whole.
        """
        paths = self._newest_first()
        for path in paths:
            try:
                return _load(path)
            except (OSError, ValueError, IntegrityError) as error:
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

    def _newest_first(self) -> list[Path]:
        found = [
            path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)
        ]
        return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)

    def _remove(self, path: Path) -> None:
        """By rename first, so that a half-removed folder is never taken for a checkpoint."""
        doomed = path.with_name(f".tmp-del-{path.name}")
        with storage_errors(path):
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed)


def _load(path: Path) -> Checkpoint:
    if not (path / _COMMITTED).exists():
        raise IntegrityError(f"{path}: never completed")
    manifest: Mapping[str, Mapping[str, object]] = json.loads((path / _MANIFEST).read_text())
    for name, facts in manifest.items():
        file = path / name
        if not file.exists() or file.stat().st_size != facts["bytes"]:
            raise IntegrityError(f"{file}: missing or of another size than written")
        if sha256_of(file) != facts["sha256"]:
            raise IntegrityError(f"{file}: damaged, its sha256 is not the one written")
    tensors = {
        file.stem: load_file(file) for file in path.glob("*.safetensors") if file.name in manifest
    }
    return Checkpoint(int(path.name[5:]), json.loads((path / _STATE).read_text()), tensors)
