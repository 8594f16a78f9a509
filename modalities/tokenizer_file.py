"""The file that tokenizers of the `tokenizers` library are kept in: `tokenizer.json`."""

from tokenizers import Tokenizer

from zoo.errors import DataError

__all__ = ["read_tokenizer"]


def read_tokenizer(data: bytes) -> Tokenizer:
    """The tokenizer that its JSON describes.

    Raises:
        DataError: it describes none.
    """
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises bare Exception for any malformed file
        raise DataError(f"not a tokenizer file: {error}") from None
