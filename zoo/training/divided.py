"""Tensors whose parts lie on several processes: each writes its own, any number can read them.

By torch.distributed.checkpoint. Its table of contents is a pickle, and a run's folder may come from
somebody else: only what such a table is made of is let in.
"""

import pickle
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import metadata as contents
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from zoo.errors import IntegrityError, ZooError

__all__ = ["gathered", "load_parts", "save_parts", "sizes"]

_TABLE = ".metadata"
_KNOWN = {
    "pathlib": ("PosixPath", "WindowsPath"),
    "torch": ("Size", *(name for name, value in vars(torch).items() if type(value) is torch.dtype)),
    "torch.serialization": ("_get_layout",),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        *("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties"),
        *("TensorStorageMetadata", "_MEM_FORMAT_ENCODING"),
    ),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place there")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:
        """The table of contents; tensors only, as anything else would be unpickled."""
        path = Path(self.path) / _TABLE
        try:
            with path.open("rb") as file:
                table = _Unpickler(file).load()
            entries = table.state_dict_metadata.values()
            strange = not all(isinstance(entry, TensorStorageMetadata) for entry in entries)
        except Exception as error:  # a pickle can fail in any way
            raise IntegrityError(f"{path}: no table of tensors ({error})") from None
        if strange:
            raise IntegrityError(f"{path}: lists more than tensors")
        table.storage_meta = contents.StorageMeta(load_id=self.load_id)
        return table


def save_parts(tensors: dict[str, Tensor], folder: Path, group: dist.ProcessGroup | None) -> None:
    """Writes this process's parts of tensors, and what all have alike once.

    Args:
        tensors: DTensors and whole tensors, with the same names in all processes.
        folder: where to.
        group: the processes.

    Raises:
        OSError: one of them could not write.
    """
    try:
        save(tensors, checkpoint_id=folder, process_group=group)
    except CheckpointException as error:
        raise _reason(error, (OSError,), OSError) from None


def load_parts(
    tensors: dict[str, Tensor],
    folder: Path,
    group: dist.ProcessGroup | None,
    *,
    alone: bool = False,
) -> None:
    """Fills tensors in place from whatever parts there are.

    Args:
        tensors: of the stored sizes, however divided now.
        folder: where they were written.
        group: the processes that read together.
        alone: no others read.

    Raises:
        RuntimeError: the stored tensors have other names or sizes.
        IntegrityError: the table of contents is none.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            reader = _Reader(folder)
            load(tensors, storage_reader=reader, process_group=group, no_dist=alone)
    except CheckpointException as error:
        raise _reason(error, (ZooError, OSError), RuntimeError) from None


def sizes(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Sizes and types of the whole tensors.

    Raises:
        IntegrityError: the table of contents is none.
    """
    table = _Reader(folder).read_metadata().state_dict_metadata
    return {name: e for name, e in table.items() if isinstance(e, TensorStorageMetadata)}


def gathered(folder: Path, beginnings: tuple[str, ...]) -> dict[str, Tensor]:
    """Whole tensors whose names begin so, in one process that may be alone.

    Raises:
        IntegrityError: the table of contents is none.
    """
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in sizes(folder).items()
        if name.startswith(beginnings)
    }
    load_parts(tensors, folder, None, alone=True)
    return tensors


def _reason(
    error: CheckpointException, known: tuple[type[Exception], ...], other: type[Exception]
) -> BaseException:
    """What went wrong, as an ordinary exception: this one would pass `except Exception`."""
    causes = [
        cause for failure, _ in error.failures.values() for cause in (failure, failure.__context__)
    ]
    for cause in causes:
        if isinstance(cause, known):
            return cause
    return other(str(causes[0]).partition("\n")[0])
