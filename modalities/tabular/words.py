"""Word pieces of names, prompts and values, in BERT's manner (lower case, no accents, `##` parts).

Any WordPiece file with the special tokens below is taken; without one a vocabulary is learned from
the tables: their most common words. Each distinct string is encoded once, not each cell.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from zoo.modalities.tables import END, PAD, START
from zoo.modalities.tokenizer_file import read_tokenizer

from zoo.errors import DataError

__all__ = ["SPECIAL_TOKENS", "Words"]

# Missing and hidden cells are told apart. DEVIATION: UniTabE's code shows both as `[MASK]`.
SPECIAL_TOKENS = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", "[MISSING]", "[MASK]")
_ASCII = [chr(code) for code in range(33, 127)]


class Words:
    """Strings -> ids; ids 0 to 5 are the special tokens."""

    pad_id, start_id, end_id = PAD, START, END
    unknown_id, missing_id, mask_id = 3, 4, 5

    def __init__(self, inner: Tokenizer) -> None:
        found = tuple(inner.id_to_token(i) for i in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            raise DataError(f"tokenizer ids 0-5 are {found}, expected {SPECIAL_TOKENS}")
        inner.encode_special_tokens = True  # "[MASK]" in somebody's cell is text
        self._inner = inner

    @classmethod
    def of(cls, vocabulary: Sequence[str]) -> "Words":
        """With a given vocabulary, behind the special tokens."""
        ids = {piece: i for i, piece in enumerate(dict.fromkeys([*SPECIAL_TOKENS, *vocabulary]))}
        return cls(_with_rules(Tokenizer(WordPiece(ids, unk_token="[UNK]"))))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Words":
        """The most common words of `texts`, and all ASCII characters, in at most `vocab_size` ids.

        The library's trainer breaks ties by chance; here equal texts give equal ids.
        """
        rules = cls.of([])._inner
        counts: Counter[str] = Counter()
        for text in texts:
            parts = rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(text))
            counts.update(word for word, _ in parts)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        vocabulary = dict.fromkeys([*_ASCII, *(f"##{c}" for c in _ASCII), *ranked])
        return cls.of([*vocabulary][: vocab_size - len(SPECIAL_TOKENS)])

    @classmethod
    def from_bytes(cls, data: bytes) -> "Words":
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
        """Ids in use."""
        return int(self._inner.get_vocab_size())

    def encode(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Ids of each text, at least one and at most `most`; an empty text is one `[UNK]`."""
        found = self._inner.encode_batch_fast([*texts], add_special_tokens=False)
        return [one.ids[:most] or [self.unknown_id] for one in found]

    def pieces(self, text: str) -> list[str]:
        """Word pieces of one text."""
        return list(self._inner.encode(text, add_special_tokens=False).tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids up to `[EOS]`: pieces joined, words apart."""
        ids = [*ids]
        ids = ids[: ids.index(self.end_id)] if self.end_id in ids else ids
        tokens = [str(self._inner.id_to_token(i)) for i in ids]
        return " ".join(tokens).replace(" ##", "")


def _with_rules(inner: Tokenizer) -> Tokenizer:
    inner.normalizer = BertNormalizer(lowercase=True)
    inner.pre_tokenizer = BertPreTokenizer()
    return inner
