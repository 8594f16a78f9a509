"""What decoders may take, and how what they say about foreign bytes becomes one line."""

from collections.abc import Iterator
from contextlib import contextmanager

from zoo.errors import DataError, ZooError

__all__ = [
    "MAX_BYTES",
    "MAX_COMPRESSED",
    "MAX_DEPTH",
    "MAX_ENTRIES",
    "MAX_PIXELS",
    "MAX_SECONDS",
    "MAX_TEXT",
    "check_size",
    "decoding",
]

MAX_TEXT = 32 << 20  # bytes of text or json, also inflated
MAX_COMPRESSED = 256 << 20  # bytes of a member that decoding makes larger
MAX_BYTES = 1 << 30  # of any other member, and of what any member decodes to
MAX_PIXELS = 64_000_000
MAX_SECONDS = 3600
MAX_DEPTH = 64
MAX_ENTRIES = 10_000  # files in a zip, chunks of a wav


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turns whatever a decoder says about foreign bytes into one line that begins with `what`.

    Raises:
        DataError: TOO_LARGE where memory ran out, else DECODE.
    """
    try:
        yield
    except ZooError:
        raise
    except MemoryError:
        raise DataError(f"{what} (does not fit in memory)", code="TOO_LARGE") from None
    except Exception as error:  # decoders fail in any way on bytes that nobody has checked
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{what} ({reason})", code="DECODE") from None


def check_size(what: str, size: int, limit: int) -> None:
    """Refuses what is larger than its limit.

    Raises:
        DataError: TOO_LARGE.
    """
    if size > limit:
        raise DataError(f"{what} of {size} bytes, the limit is {limit}", code="TOO_LARGE")
