"""Texts -> ids of those models of open_clip whose tokenizer is not CLIP's, but in files.

SigLIP and others bring a `tokenizer.json`. open_clip hands it to transformers; the library that
made it reads it here, with the same cleaning, cutting and filling up, which pooling relies on.

Notation: B texts, L tokens of a text.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from zoo.errors import DataError

__all__ = ["FILES", "FileTokenizer", "TokenizerOptions"]

FILES = ("tokenizer.json", "tokenizer_config.json")
_PAD, _SEP = ("<pad>", "[PAD]"), ("[SEP]",)  # where the second file names none


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerOptions:
    """What open_clip's configuration says of a tokenizer that comes in files."""

    repo: str  # of the files, on the Hugging Face Hub
    clean: str = "whitespace"
    strip_sep_token: bool = False


class FileTokenizer:
    """Called with texts, gives ids (B, L)."""

    def __init__(
        self, files: Mapping[str, bytes], options: TokenizerOptions, context_length: int
    ) -> None:
        from tokenizers import Tokenizer

        config = _facts(files)
        try:
            self._tokenizer = Tokenizer.from_str(files[FILES[0]].decode())
        except Exception as error:  # the library raises this kind itself
            raise DataError(f"{FILES[0]}: no tokenizer ({error})") from None
        pad, pad_id = self._special(config.get("pad_token"), _PAD, "padding")
        self._tokenizer.enable_truncation(context_length)
        self._tokenizer.enable_padding(
            length=context_length,
            pad_id=pad_id,
            pad_token=pad,
            direction=str(config.get("padding_side", "right")),
        )
        self._dropped = None
        if options.strip_sep_token:
            self._dropped = self._special(config.get("sep_token"), _SEP, "separating")[1]
        cleaning = import_module("open_clip.tokenizer").get_clean_fn  # comes without types
        self._clean: Callable[[str], str] = cleaning(options.clean)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """What is too long is cut, what is too short filled up."""
        found = self._tokenizer.encode_batch([self._clean(text) for text in texts])
        ids = torch.tensor([one.ids for one in found])
        return ids if self._dropped is None else ids.masked_fill(ids == self._dropped, 0)

    def _special(self, said: object, usual: Sequence[str], what: str) -> tuple[str, int]:
        """A special token and its id; the second file has it as a string or among other facts."""
        name = said.get("content") if isinstance(said, dict) else said
        for token in (str(name),) if name else usual:
            number = self._tokenizer.token_to_id(token)
            if number is not None:
                return token, number
        raise DataError(f"{FILES[1]}: no {what} token of {FILES[0]} is named")


def _facts(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        facts = json.loads(files.get(FILES[1], b"{}"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise DataError(f"{FILES[1]}: no table of facts")
    return facts
