"""What encoders and preprocessing of token ids give beyond the contracts, and text objectives need.

Notation: B samples, N tokens of a sample, T tokens of a packed batch, D width, V vocabulary.
"""

from abc import abstractmethod

from torch import Tensor, nn
from zoo.modalities.contracts import (
    Batch,
    Features,
    Preprocess,
    Sample,
    SampleEncoder,
    TokenEncoder,
    Tokens,
)

__all__ = ["CausalEncoder", "VocabularyEncoder", "WordPreprocess", "WriterEncoder"]


class WordPreprocess(Preprocess):
    """A preprocessing of text that knows which tokens make up a word."""

    @abstractmethod
    def words(
        self, sample: Sample, *, identifiers: bool = False, lexicon: frozenset[str] = frozenset()
    ) -> Batch:
        """What masking by whole words needs beside the N ids of a decoded sample.

        Args:
            sample: of text.
            identifiers: a name of the source code is one word at all its places, and preferred.
            lexicon: words in lower case that are preferred.

        Returns:
            `word` (N,) int64: the number of each token's word, -1 at special tokens; `preferred`
            (N,) bool.

        Raises:
            DataError: identifiers of a text in a language that is not known.
        """


class VocabularyEncoder(TokenEncoder, SampleEncoder):
    """A token encoder of ids below `vocab_size`, whose embedding a head may share."""

    needs_words = "token ids of a vocabulary"
    vocab_size: int
    mask_id: int
    ordinary: range  # ids of text: no other one is masked, or drawn as a replacement
    embedding: nn.Embedding

    def states(self, batch: Batch, index: Tensor) -> Tensor:
        """(M, D) last states of the tokens at `index` (M,), ascending, of all tokens."""
        return self.encode(self.tokenize(batch)).x.flatten(0, 1).index_select(0, index)


class CausalEncoder(VocabularyEncoder):
    """A vocabulary encoder that can also read from left to right only."""

    needs_words = "token ids of a vocabulary and attention that can be made causal"

    @abstractmethod
    def encode(self, tokens: Tokens, *, causal: bool = False) -> Tokens:
        """The trunk; with `causal` a token sees none after it."""


class WriterEncoder(VocabularyEncoder):
    """A vocabulary encoder with a decoder that writes ids of the same vocabulary."""

    needs_words = "a decoder that writes token ids"
    decoder_start_id: int  # what the decoder reads first
    sentinels: range  # ids that may stand for a hidden span, in order of use; of no text
    max_length: int  # tokens of a text, start and end included

    @abstractmethod
    def decode(self, features: Features, batch: Batch) -> Tensor:
        """States (1, T, D) of the decoder.

        Args:
            features: of the encoder, for the same texts.
            batch: `decoder_ids` (T,) with `decoder_lengths` (B,), packed, what the decoder reads.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """States (..., D) of the decoder -> (..., V)."""
