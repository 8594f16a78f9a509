"""Tokenizers: one's own, or whatever published weights were trained with.

One's own is a byte-level BPE, trained with the `tokenizers` library. It has no normaliser and no
added blank: indentation is meaning in code, and the round trip is exact. Published ones (WordPiece
of BERT, byte-level BPE of ModernBERT and CodeT5+) are read from their `tokenizer.json`.
"""

from collections.abc import Iterable, Sequence

from tokenizers import AddedToken
from tokenizers import Tokenizer as _Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from zoo.modalities.tokenizer_file import read_tokenizer

__all__ = ["SPECIAL_TOKENS", "Tokenizer"]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<mask>")


class Tokenizer:
    """Text <-> ids. A trained one has ids 0 to 3 for `<pad>`, `<s>`, `</s>` and `<mask>`."""

    pad_id, start_id, end_id, mask_id = range(len(SPECIAL_TOKENS))

    def __init__(self, inner: _Tokenizer) -> None:
        inner.encode_special_tokens = True  # "<mask>" in somebody's source is text, not a mask
        inner.no_truncation()  # published files may hold a length of their own
        inner.no_padding()
        self._inner = inner

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Learns at most `vocab_size` ids from `texts`; the same texts give the same ids."""
        inner = _Tokenizer(BPE())
        inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
        inner.decoder = ByteLevelDecoder()
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Tokenizer":
        """From the JSON that `to_bytes` gave.

        Raises:
            DataError: it is none.
        """
        return cls(read_tokenizer(data))

    def to_bytes(self) -> bytes:
        """JSON, readable by the `tokenizers` library."""
        return self._inner.to_str().encode()

    @property
    def vocab_size(self) -> int:
        """The highest id, and one."""
        return int(max(self._inner.get_vocab().values(), default=-1)) + 1

    def special(self, number: int) -> bool:
        """Whether an id stands for no text."""
        token = self._inner.get_added_tokens_decoder().get(number)
        return token is not None and bool(token.special)

    def reserve(self, ids: range) -> list[int]:
        """Sees to it that no text is encoded with these ids; returns those that cannot be spared.

        Ids that are not in use are free; added tokens become special ones.
        """
        added = self._inner.get_added_tokens_decoder()
        names = [added[number].content for number in ids if number in added]
        self._inner.add_special_tokens([AddedToken(name, normalized=False) for name in names])
        return [number for number in ids if self.token(number) is not None and number not in added]

    def token(self, number: int) -> str | None:
        """How an id is written; None where it is not in use."""
        found = self._inner.id_to_token(number)
        return None if found is None else str(found)

    def encode(self, text: str) -> list[int]:
        """Ids without special tokens; a special token's text is encoded like any other text."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where in the text each id of `encode` stands, in characters."""
        return list(self._inner.encode(text, add_special_tokens=False).offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens shown."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))
