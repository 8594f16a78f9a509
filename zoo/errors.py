"""One family of errors: a person reads one line, a program reads the class and the exit code."""

from collections.abc import Iterable

__all__ = [
    "BusyError",
    "ConfigError",
    "DataError",
    "IntegrityError",
    "NonFiniteError",
    "Preempted",
    "StorageError",
    "UnknownNameError",
    "UsageError",
    "WeightsError",
    "WorkerError",
    "ZooError",
    "nearest",
    "unexpected",
]


class ZooError(Exception):
    """Anything zoo refuses or fails at; the message is one line: what, where, what to do."""

    exit_code = 1
    run_exit_code: int | None = None  # what a run (`zoo pretrain`) exits with, where it differs


class UsageError(ZooError):
    """The request is off: an unknown name, a wrong option, a folder of something else."""

    exit_code = 2


class ConfigError(UsageError):
    """A card, a recipe or an override does not fit its schema; names the file and the key."""


class UnknownNameError(UsageError, LookupError):
    """A model, objective, modality or option that does not exist; suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        near = nearest(name, known)
        said = f"; did you mean {' or '.join(near)}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}{said}" + (f" ({hint})" if hint else ""))
        self.nearest = near


class DataError(ZooError):
    """A sample, a shard or an input file that cannot be read; names it.

    `code` is the kind of damage, one of specification `data`, 6.2.
    """

    run_exit_code = 65

    def __init__(self, message: str, *, code: str = "DECODE") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:  # codes survive the way out of a worker
        return _data_error, (type(self), str(self), self.code)


class WorkerError(ZooError):
    """A process or thread that prepares data died or hangs; says at which sample."""


class WeightsError(ZooError):
    """Weights that do not fit the encoder: lists missing, unexpected and misshapen tensors."""


class IntegrityError(ZooError):
    """Bytes that are not the ones that were written: gives the expected and the found digest."""

    run_exit_code = 65


class StorageError(ZooError):
    """The disk said no: full, read-only, gone. Nothing half-written stays behind."""

    run_exit_code = 74


class BusyError(ZooError):
    """Another process is writing this run."""

    run_exit_code = 73


class NonFiniteError(ZooError):
    """The loss or the gradient stopped being a number; the last checkpoint is intact."""

    run_exit_code = 70


class Preempted(ZooError):  # noqa: N818 - an order that was followed, not an error
    """The run was asked to stop, saved its state, and continues with the same command."""

    run_exit_code = 75


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Known names that look like `name`, best first; prefixes count as near."""
    import difflib  # only a mistake should pay for it

    names = sorted(known)
    begins = [other for other in names if name and other.startswith(name)]
    similar = difflib.get_close_matches(name, names, n=most, cutoff=0.6)
    return list(dict.fromkeys(begins + similar))[:most]


def unexpected(error: BaseException) -> str:
    """One line about an error that nobody foresaw.

    It names the line of a plug-in (an objective, an encoder of somebody's own) that led to it; an
    error without one is ours.
    """
    import sysconfig  # as above
    from traceback import walk_tb

    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    own = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] != "zoo"
        and not frame.f_code.co_filename.startswith(("<", *libraries))
    ]
    said = f"{type(error).__name__}: {error}"
    if own:
        return f"{own[-1]}: {said}; zoo --debug ... shows how it came to that"
    return f"internal error, {said}; please report it with the output of zoo --debug ..."


def _data_error(cls: type[DataError], message: str, code: str) -> DataError:
    return cls(message, code=code)
