"""Requests to stores, tried again while the trouble may pass, and one line for what does not.

No message shows what a URL may hide: user, password, query.
"""

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from zoo.errors import DataError, UsageError, ZooError

__all__ = ["AbsentError", "ForbiddenError", "retried", "shown"]

T = TypeVar("T")
_log = logging.getLogger("zoo")
_RETRIES, _WAIT, _LONGEST_WAIT = 5, 0.5, 300.0  # seconds; the first wait, doubled each time
_TRANSIENT = {408, 425, 429}  # and everything from 500
_REFUSALS = {
    401: "the store wants credentials: log in, or set them as its package expects",
    403: "the store does not allow it: check the address and your credentials",
    404: "there is no such file: check the address",
    410: "there is no such file any more: check the address",
    412: "it has changed: start again to read the new version",
    416: "it has changed: start again to read the new version",
}
_entropy = random.SystemRandom()  # the run's own random numbers stay untouched


class AbsentError(UsageError):
    """There is no such file."""


class ForbiddenError(UsageError):
    """The store does not say whether there is such a file."""


def shown(url: str) -> str:
    """The URL without user, password, query and fragment: for messages; a path as it is."""
    if "://" not in url:
        return url
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def retried(url: str, action: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """What `action` gives, tried again while the trouble may pass.

    Args:
        url: for messages.
        action: may raise whatever a store's package raises.
        progress: grows with what was reached; the count of tries begins anew when it has grown.

    Raises:
        UsageError: the store refuses.
        DataError: it was tried too often, with code IO.
    """
    tries, best = 0, progress()
    while True:
        try:
            return action()
        except ZooError:
            raise
        except Exception as error:  # each store has its own family
            reason, wait = _judge(url, error)
        if progress() > best:
            tries, best = 0, progress()
        if tries == _RETRIES:
            raise DataError(
                f"{shown(url)}: cannot read it ({reason}, after {tries} retries); check the "
                "network and run the same command again",
                code="IO",
            )
        if wait is None:
            wait = _WAIT * 2**tries * _entropy.uniform(0.5, 1)
        tries += 1
        _log.warning("%s: %s; trying again in %.1f s", shown(url), reason, wait)
        time.sleep(min(wait, _LONGEST_WAIT))


def _judge(url: str, error: Exception) -> tuple[str, float | None]:
    """What went wrong, and for how long the server asks to wait.

    Raises:
        UsageError: trying again is no use.
        Exception: `error`, where it is a mistake of ours.
    """
    chain = [error]
    while isinstance(cause := chain[-1].__cause__, Exception):
        chain.append(cause)
    status = next(filter(None, map(_status, chain)), None) or _implied(chain)
    if status is not None and status < 500 and status not in _TRANSIENT:
        kind = {403: ForbiddenError, 404: AbsentError, 410: AbsentError}.get(status, UsageError)
        says = _REFUSALS.get(status, f"the store refuses the request (HTTP {status})")
        raise kind(f"{shown(url)}: {says}") from None
    if status is not None:
        return f"HTTP {status}", next(filter(None, map(_asked_wait, chain)), None)
    last = chain[-1]
    if isinstance(last, ValueError | NotImplementedError):
        raise UsageError(f"{shown(url)}: not an address that the store understands") from None
    if not isinstance(last, OSError) and type(last).__module__ == "builtins":
        raise error
    return type(last).__name__, None


def _status(error: Exception) -> int | None:
    """The HTTP status that an error carries: each package puts it elsewhere."""
    # aiohttp's `code` is its own verdict on a broken answer.
    google = type(error).__module__.startswith("gcsfs")
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", *(["code"] if google else [])):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return None


def _implied(chain: list[Exception]) -> int | None:
    """The HTTP status that goes with Python's own errors."""
    found = [error for error in chain if isinstance(error, OSError)]
    if any("Credential" in type(error).__name__ for error in chain):
        return 401
    if not found:
        return None
    if isinstance(found[-1], PermissionError) or str(found[-1]).startswith("Forbidden"):  # gcsfs
        return 403
    # fsspec says so, too, of a web server that does not answer.
    web = type(chain[-1]).__module__.startswith("aiohttp")
    return 404 if isinstance(found[-1], FileNotFoundError) and not web else None


def _asked_wait(error: Exception) -> float | None:
    for holder in (error, getattr(error, "response", None)):
        asked = str((getattr(holder, "headers", None) or {}).get("Retry-After", ""))
        if asked.isdigit():
            return float(asked)
    return None
