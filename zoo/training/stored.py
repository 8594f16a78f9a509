"""A checkpoint as it lies on the disk, and how to read it without changing anything.

The folder `step-N` holds safetensors files, state.json, manifest.json with the digest of each file,
and an empty COMMITTED. Digests are no luxury: safetensors and torch.save load nine of ten files
with a flipped bit without a word.
Tensors that are divided among processes are in `shards/` (zoo.training.divided).
"""

import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from zoo.errors import IntegrityError, UsageError
from zoo.files import save_tensors, sha256_of, sync

__all__ = [
    "SHARDS",
    "Checkpoint",
    "load",
    "newest_first",
    "read_only",
    "state_of",
    "step_of",
    "verify",
    "write",
]

_STATE, _MANIFEST, _COMMITTED = "state.json", "manifest.json", "COMMITTED"
SHARDS = "shards"
_FORMAT = 1  # of state.json and all beside it; a zoo reads its own and older ones
_TRIES = 3  # a run in progress may remove a checkpoint while it is read


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One saved moment of a run."""

    step: int
    state: dict[str, object]  # what JSON can hold
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)  # file stem -> tensors
    shards: dict[str, Tensor] = field(default_factory=dict)  # DTensors, each process its part
    path: Path | None = None  # where it was read from

    @property
    def size(self) -> int:
        """Bytes of all tensors, wherever their parts are."""
        kept = [*self.shards.values(), *(t for ts in self.tensors.values() for t in ts.values())]
        return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def write(checkpoint: Checkpoint, draft: Path) -> None:
    """Fills a folder, which holds the shards if there are any; the marker comes last."""
    state = {"format": _FORMAT, "step": checkpoint.step, "state": checkpoint.state}
    (draft / _STATE).write_text(json.dumps(state))
    # Side by side: the disk takes files while digests are computed. Each may need two threads.
    with ThreadPoolExecutor(2 * len(checkpoint.tensors) + 2) as pool:
        written = [
            pool.submit(_save, draft / f"{stem}.safetensors", tensors, pool)
            for stem, tensors in checkpoint.tensors.items()
        ]
        others = [draft / _STATE, *(draft / SHARDS).glob("*")]
        written += [pool.submit(_entry, file) for file in others]
        entries = dict(future.result() for future in written)
    manifest = {file.relative_to(draft).as_posix(): entry for file, entry in entries.items()}
    (draft / _MANIFEST).write_text(json.dumps(manifest))
    (draft / _COMMITTED).touch()


def _save(
    file: Path, tensors: Mapping[str, Tensor], pool: ThreadPoolExecutor
) -> tuple[Path, dict[str, object]]:
    save_tensors(file, tensors)
    synced = pool.submit(sync, file)
    entry = _entry(file)
    synced.result()
    return entry


def _entry(file: Path) -> tuple[Path, dict[str, object]]:
    return file, {"sha256": sha256_of(file), "bytes": file.stat().st_size}


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a folder, whole or not."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name claims."""
    return int(path.name.removeprefix("step-"))


def verify(path: Path) -> None:
    """Checks that every file is what was written.

    Raises:
        IntegrityError: a file is damaged, missing or not the checkpoint's; names it.
        UsageError: a newer zoo wrote it.
    """
    try:
        manifest = _checked_manifest(path)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: _check(path / name, manifest[name]), manifest))
        state_of(path)
    except OSError as error:
        file = error.filename or path
        raise IntegrityError(f"{file}: cannot read it ({error.strerror})") from None


def _checked_manifest(path: Path) -> dict[str, object]:
    """The manifest, if it lists exactly the files that are there."""
    manifest = _parsed(path / _MANIFEST)
    own = {_MANIFEST, _COMMITTED}
    found = {f.relative_to(path).as_posix() for f in path.rglob("*") if not f.is_dir()}
    if missing := (manifest.keys() | own) - found:
        raise IntegrityError(f"{path / min(missing)}: missing, {_MANIFEST} lists it")
    if strange := found - manifest.keys() - own:
        raise IntegrityError(f"{path / min(strange)}: {_MANIFEST} does not list it")
    return manifest


def _check(file: Path, entry: object) -> None:
    if not isinstance(entry, dict):
        raise IntegrityError(f"{file}: {_MANIFEST} says nothing about it")
    if file.stat().st_size != entry.get("bytes"):
        raise IntegrityError(f"{file}: damaged, its size is not the one written in {_MANIFEST}")
    if sha256_of(file) != entry.get("sha256"):
        raise IntegrityError(f"{file}: damaged, its sha256 is not the one written in {_MANIFEST}")


def state_of(path: Path) -> dict[str, object]:
    """What JSON holds of a checkpoint.

    Raises:
        IntegrityError: it is damaged, or of another step than the folder's name says.
        UsageError: a newer zoo wrote it.
    """
    file = path / _STATE
    content = _parsed(file)
    number, state = content.get("format"), content.get("state")
    if isinstance(number, int) and number > _FORMAT:
        raise UsageError(f"{file}: format {number}, this zoo reads {_FORMAT}; update zoo")
    if number != _FORMAT or not isinstance(state, dict):
        raise IntegrityError(f"{file}: damaged, it is no state of a run")
    if content.get("step") != step_of(path):
        raise IntegrityError(f"{file}: of step {content.get('step')}, so the folder was renamed")
    return state


def _parsed(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise IntegrityError(f"{file}: damaged, it is no JSON that zoo wrote")
    return content


def load(path: Path) -> Checkpoint:
    """A verified checkpoint, without its shards; files are mapped, not copied.

    Raises:
        IntegrityError, UsageError: as `state_of`.
    """
    tensors = {}
    for file in path.glob("*.safetensors"):
        try:
            tensors[file.stem] = load_file(file)
        except SafetensorError as error:
            raise IntegrityError(f"{file}: damaged ({error})") from None
    return Checkpoint(step_of(path), state_of(path), tensors, path=path)


def read_only(folder: Path, step: int | None = None) -> Checkpoint:
    """Verifies and loads the newest checkpoint, or that of a step; a run may be writing there.

    Raises:
        UsageError: there is none, or a newer zoo wrote it.
        IntegrityError: it is damaged.
    """
    for _ in range(_TRIES):
        for path in newest_first(folder):
            if step not in (None, step_of(path)):
                continue
            try:
                verify(path)
                return load(path)
            except (IntegrityError, OSError):
                if path.exists():
                    raise
    steps = ", ".join(str(step_of(path)) for path in newest_first(folder))
    if step is not None and steps:
        raise UsageError(f"{folder.parent}: has no checkpoint of step {step}; there are {steps}")
    raise UsageError(f"{folder.parent}: has no checkpoint in one piece yet")
