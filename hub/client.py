"""Talking to the Hugging Face Hub: patience where it is busy, and one plain line where it refuses.

The client is imported where it is used: it costs a tenth of a second.
"""

import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from zoo.errors import UsageError, ZooError
from zoo.files import storage_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["UnreachableError", "api", "is_offline", "patiently"]

T = TypeVar("T")
_PAUSES = (0.5, 2.0, 6.0)  # seconds before another try
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP statuses that are gone a little later
_SAID = {  # in this order, as some are kinds of others
    "GatedRepoError": "its authors let in only whom they accept: ask on its page on the Hub, then "
    "log in with `hf auth login`",
    "RevisionNotFoundError": "no such branch, tag or commit on the Hub",
    "RepositoryNotFoundError": "no such repository on the Hub, or a private one: check the name, "
    "or log in with `hf auth login`",
    "RemoteEntryNotFoundError": "the Hub does not have a file that it lists",
    "HFValidationError": "no name of a repository: write ORG/NAME",
}


class UnreachableError(ZooError):
    """The Hub does not answer, or may not be asked."""


class _BusyError(Exception):
    pass


def api() -> "HfApi":
    """The client; HF_ENDPOINT as it is now, which the client itself reads once."""
    from huggingface_hub import HfApi

    return HfApi(
        endpoint=os.environ.get("HF_ENDPOINT"), library_name="zoo", library_version=version("zoo")
    )


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub.constants import is_offline_mode

    return bool(is_offline_mode())


def patiently(repo: str, ask: Callable[[], T]) -> T:
    """The answer of the Hub, with pauses where it asks for them.

    Args:
        repo: what messages name.
        ask: can be called again.

    Raises:
        UsageError: there is no such thing, or it is not open to this user.
        UnreachableError: it does not answer.
        StorageError: the disk did not take what it sent.
        ZooError: it refuses for another reason.
    """
    for pause in (*_PAUSES, None):
        try:
            return ask()
        except Exception as error:
            plain = _plain(repo, error)
            if not isinstance(plain, _BusyError):
                raise plain from None
            if pause is None:
                raise UnreachableError(f"{repo}: {plain}; try again later") from None
            time.sleep(pause)
    raise AssertionError


def _plain(repo: str, error: Exception) -> Exception:
    """What the client raises, as one line with what to do; itself where it is none of the Hub's."""
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # how the client wraps what went wrong with an upload
    for name, said in _SAID.items():
        if isinstance(error, getattr(errors, name)):
            return UsageError(f"{repo}: {said}")
    if isinstance(error, errors.HfHubHTTPError):
        return _status(repo, error.response.status_code)
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        if is_offline():
            return UnreachableError(
                f"{repo}: not in the cache, and HF_HUB_OFFLINE forbids to fetch it: unset it, or "
                "fetch once where there is a network"
            )
        return _BusyError(f"the Hub cannot be reached ({_line(error)})")
    # The transport's own errors are those of the package below, which is not ours to import.
    is_transport = type(error).__module__.partition(".")[0].startswith("http")
    if is_transport or isinstance(error, (ConnectionError, TimeoutError)):
        return _BusyError(f"the Hub cannot be reached ({_line(error)})")
    if isinstance(error, OSError):
        return _of_disk(error) if error.errno else _BusyError(f"it broke off ({_line(error)})")
    return error


def _status(repo: str, status: int) -> Exception:
    if status in _PASSING:
        return _BusyError(f"the Hub answers with status {status}")
    if status in (401, 403):
        return UsageError(
            f"{repo}: the Hub refuses access (status {status}): log in with `hf auth login`, and "
            "check what the token may do"
        )
    return ZooError(f"{repo}: the Hub answers with status {status}")


def _of_disk(error: OSError) -> Exception:
    try:
        with storage_errors(Path(str(error.filename or "the Hub's cache"))):
            raise error
    except ZooError as plain:
        return plain


def _line(error: BaseException) -> str:
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
