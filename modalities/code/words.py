"""Which tokens make up a word of source text, and which words are names.

A word is a run of letters, digits and underscores, a run of other signs, or a run of blanks; so
that it is the same whatever the tokenizer. A token belongs to the word that it ends in: byte-level
tokens take the blank before a word along.

Notation: N tokens of a text, special ones included.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

import torch
from zoo.modalities.code.syntax import identifiers, language_of
from zoo.modalities.contracts import Batch

from zoo.errors import DataError

__all__ = ["mark_words", "names_of"]

_WORD = re.compile(r"\w+|[^\w\s]+|\s+")
Span = tuple[int, int]  # of characters: first, and one behind the last


def mark_words(
    text: str,
    tokens: Sequence[Span],
    *,
    names: Sequence[Span] = (),
    lexicon: frozenset[str] = frozenset(),
) -> Batch:
    """The words of a text that is framed by two special tokens.

    Args:
        text: the source.
        tokens: where the N - 2 tokens between them stand.
        names: where identifiers stand; all places of one are one word.
        lexicon: words in lower case.

    Returns:
        `word` (N,) int64, -1 for the two; `preferred` (N,) bool, True in names and in the lexicon.
    """
    owner, preferred, number = [0] * (len(text) + 1), set[int](), 0
    for found in _WORD.finditer(text):
        number += 1
        owner[found.start() : found.end()] = [number] * (found.end() - found.start())
        if found[0].lower() in lexicon:
            preferred.add(number)
    numbers: dict[str, int] = {}
    for begin, end in names:
        one = numbers.setdefault(text[begin:end], number + 1 + len(numbers))
        owner[begin:end] = [one] * (end - begin)
    preferred.update(numbers.values())
    words = [owner[max(begin, end - 1)] for begin, end in tokens]
    return {
        "word": torch.tensor([-1, *words, -1]),
        "preferred": torch.tensor([False, *(word in preferred for word in words), False]),
    }


def names_of(text: str, facts: Mapping[str, object]) -> list[Span]:
    """Where the identifiers of a sample stand.

    Raises:
        DataError: the facts name no language, nor a file whose name tells it.
        UsageError: the parser is not installed.
    """
    language = facts.get("language") or language_of(PurePath(str(facts.get("file", ""))))
    if not language:
        raise DataError("identifiers of which language? its json member says none (language, file)")
    return identifiers(text, str(language))
