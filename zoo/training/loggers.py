"""Where a run's numbers go besides metrics.jsonl: one small class for each tracking service.

The services are optional packages, and none may end a training: what they cannot take is reported
once. Nothing reaches for a network unless its own environment variables say so (`WANDB_MODE` or
`WANDB_API_KEY`, `MLFLOW_TRACKING_URI`, `TRACKIO_SPACE_ID`).
"""

import importlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

from zoo.errors import UnknownNameError, UsageError
from zoo.files import write_atomic

__all__ = ["LOGGERS", "Logger", "Loggers", "check_loggers"]

_log = logging.getLogger("zoo")
_PROJECT = "zoo"


class Logger(Protocol):
    """Takes rows of numbers until it is closed."""

    def log(self, row: Mapping[str, float]) -> None:
        """One row; `step` says where it stands."""

    def close(self) -> None:
        """Everything taken is written when this returns."""


class _TensorBoard:
    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def log(self, row: Mapping[str, float]) -> None:
        for name, value in _values(row).items():
            self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, folder: Path, start: int) -> None:
        online = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._run = importlib.import_module("wandb").init(
            project=_PROJECT,
            name=folder.resolve().name,
            id=_identity(folder, "wandb", lambda: uuid.uuid4().hex),
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", online),
            resume="allow",
        )

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(_values(row), step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    def __init__(self, folder: Path, start: int) -> None:
        self._mlflow = mlflow = importlib.import_module("mlflow")
        local = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", local))
        mlflow.set_experiment(_PROJECT)
        name = folder.resolve().name

        def begin() -> str:
            run = mlflow.start_run(run_name=name)
            mlflow.end_run()
            return str(run.info.run_id)

        mlflow.start_run(run_id=_identity(folder, "mlflow", begin))

    def log(self, row: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(_values(row), step=int(row["step"]))

    def close(self) -> None:
        self._mlflow.end_run()


class _Trackio:
    def __init__(self, folder: Path, start: int) -> None:
        self._trackio = importlib.import_module("trackio")
        name = folder.resolve().name
        name = _identity(folder, "trackio", lambda: f"{name}-{uuid.uuid4().hex[:8]}")
        self._trackio.init(project=_PROJECT, name=name, resume="allow")

    def log(self, row: Mapping[str, float]) -> None:
        self._trackio.log(_values(row), step=int(row["step"]))

    def close(self) -> None:
        self._trackio.finish()


# Each name is that of the package to install, too.
LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}


class Loggers:
    """Several loggers as one; a logger that fails is left out from then on, with a warning."""

    def __init__(self, names: Sequence[str], folder: Path, *, start: int) -> None:
        """Opens them for a run that has done `start` steps.

        Raises:
            UsageError: no such logger, or its package is not installed.
        """
        check_loggers(names)
        self._open: dict[str, Logger] = {}
        for name in names:
            try:
                self._open[name] = LOGGERS[name](folder, start)
            except Exception as error:
                _warn(name, error)

    def log(self, row: Mapping[str, float]) -> None:
        """One row to each."""
        for name, logger in [*self._open.items()]:
            try:
                logger.log(row)
            except Exception as error:
                del self._open[name]
                _warn(name, error)

    def close(self) -> None:
        """Closes each."""
        for name, logger in self._open.items():
            try:
                logger.close()
            except Exception as error:
                _warn(name, error)
        self._open.clear()


def check_loggers(names: Iterable[str]) -> None:
    """Refuses what cannot be used on this machine: to be called before anything is written.

    Raises:
        UnknownNameError: no such logger.
        UsageError: its package is not installed; names it.
    """
    for name in names:
        if name not in LOGGERS:
            raise UnknownNameError("logger", name, LOGGERS, f"there are {', '.join(LOGGERS)}")
        _import(name)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            f"train.loggers: {name} is not installed: pip install 'zoo[{name}]', or leave it out"
        ) from None


def _values(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step"}


def _identity(folder: Path, name: str, make: Callable[[], str]) -> str:
    """What the service knows this run by, so that a resumed run continues its curves."""
    path = folder / f"{name}.id"
    if not path.exists():
        write_atomic(path, make())
    return path.read_text()


def _warn(name: str, error: Exception) -> None:
    _log.warning(
        "%s takes no more of this run (%s: %s); metrics.jsonl goes on",
        name,
        type(error).__name__,
        " ".join(str(error).split()),
    )
