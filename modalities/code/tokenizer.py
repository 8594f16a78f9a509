"""Byte-level BPE, trained with the `tokenizers` library and stored with the weights.

No normaliser and no added blank: indentation is meaning in code, and the round trip is exact.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer as _Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from zoo.errors import DataError

__all__ = ["SPECIAL_TOKENS", "Tokenizer"]

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<mask>")


class Tokenizer:
    """Text <-> ids; ids 0 to 3 are `<pad>`, `<s>`, `</s>`, `<mask>`."""

    pad_id, start_id, end_id, mask_id = range(len(SPECIAL_TOKENS))

    def __init__(self, inner: _Tokenizer) -> None:
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            raise DataError(f"tokenizer ids 0-3 are {found}, expected {SPECIAL_TOKENS}")
        inner.encode_special_tokens = True  # "<mask>" in somebody's source is text, not a mask
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
        """From the JSON that `to_bytes` gave."""
        try:
            return cls(_Tokenizer.from_str(data.decode()))
        except DataError:
            raise
        except Exception as error:  # the library raises bare Exception for any malformed file
            raise DataError(f"not a tokenizer file: {error}") from None

    def to_bytes(self) -> bytes:
        """JSON, readable by the `tokenizers` library."""
        return self._inner.to_str().encode()

    @property
    def vocab_size(self) -> int:
        """Ids in use."""
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids without special tokens; a special token's text is encoded like any other text."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens shown."""
        return str(self._inner.decode(list(ids), skip_special_tokens=False))
