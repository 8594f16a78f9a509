"""Which tokens of a text are hidden, and what stands in their place: for all masked objectives.

| policy | what is chosen |
|---|---|
| token | each token by itself with probability `mask_ratio` (arXiv 1810.04805) |
| word | whole words, until the share is reached |
| span | runs of `mean_span` tokens on average, of random lengths (arXiv 1910.10683) |
| identifier | names of the source code first, a name at all its places; then whole words |
| lexicon | words of `lexicon` first (arXiv 2402.09151), then whole words |

DEVIATION: the lexicon's words come in random order; in reading order the budget would be used up at
a text's start.

Of the chosen tokens 80 % become `<mask>`, 10 % a random id, 10 % stay.

Notation: N tokens of a text, M chosen ones, V vocabulary, U words.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Preprocess, Sample
from zoo.modalities.vocabulary import VocabularyEncoder, WordPreprocess
from zoo.objectives.spans import noise_mask

from zoo.errors import UsageError

__all__ = ["MaskingConfig", "Vocabulary", "choose_words", "corrupt", "mark_words"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskingConfig:
    """What is hidden."""

    mask_ratio: float = 0.3
    policy: Literal["token", "word", "span", "identifier", "lexicon"] = "token"
    mean_span: float = 3.0  # policy span: tokens
    lexicon: tuple[str, ...] = ()  # policy lexicon: words in lower case
    keep_share: float = 0.1  # of the chosen tokens: shown as they are
    random_share: float = 0.1  # of the chosen tokens: shown as a random id

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")
        if not 0.0 <= self.keep_share + self.random_share <= 1.0:
            raise ValueError("keep_share + random_share must lie between 0 and 1")
        if self.mean_span < 1.0:
            raise ValueError(f"mean_span must be at least 1, got {self.mean_span}")
        if bool(self.lexicon) != (self.policy == "lexicon"):
            raise ValueError("policy 'lexicon' needs a lexicon, and the others take none")

    @property
    def by_word(self) -> bool:
        """Whether samples must say which words their tokens make up."""
        return self.policy in ("word", "identifier", "lexicon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The ids that masking deals with."""

    size: int  # V
    mask_id: int
    ordinary: range  # ids of text: no other one is chosen, or drawn as a replacement

    @classmethod
    def of(cls, encoder: VocabularyEncoder) -> Self:
        """An encoder's."""
        return cls(size=encoder.vocab_size, mask_id=encoder.mask_id, ordinary=encoder.ordinary)

    def is_ordinary(self, ids: Tensor) -> Tensor:
        """Like `ids`, True where they are of text."""
        return (ids >= self.ordinary.start) & (ids < self.ordinary.stop)


def mark_words(sample: Sample, preprocess: Preprocess, config: MaskingConfig) -> Batch:
    """The fields `word` and `preferred` of a decoded sample, where the policy goes by words.

    Raises:
        UsageError: the encoder's preprocessing knows no words.
        DataError: identifiers of a text whose language is not known.
    """
    if not config.by_word:
        return {}
    if not isinstance(preprocess, WordPreprocess):
        raise UsageError(f"policy {config.policy!r} needs text; policy=token and span do not")
    return preprocess.words(
        sample,
        identifiers=config.policy == "identifier",
        lexicon=frozenset(config.lexicon),
    )


def corrupt(
    sample: Batch, config: MaskingConfig, vocabulary: Vocabulary, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Masks one text; if chance chose no token, one is, so that every text has a target.

    Args:
        sample: `ids` (N,); where the policy goes by words also `word` and `preferred` (N,).
        config: what is hidden.
        vocabulary: of the ids.
        generator: all chance.

    Returns:
        The corrupted ids (N,) and the chosen positions (M,), ascending.
    """
    ids = sample["ids"]
    chance = torch.rand(3, len(ids), generator=generator)
    ordinary = vocabulary.is_ordinary(ids)
    chosen = _choose(sample, config, ordinary, chance[0], generator)
    if not chosen.any() and ordinary.any():
        chosen[chance[0].masked_fill(~ordinary, 2.0).argmin()] = True
    index = chosen.nonzero().flatten()
    fate = chance[1, index]
    choices = vocabulary.ordinary
    random_ids = choices.start + (chance[2, index] * len(choices)).long()
    shown = torch.full_like(index, vocabulary.mask_id)
    shown = torch.where(fate < config.random_share, random_ids, shown)
    shown = torch.where(fate >= 1.0 - config.keep_share, ids[index], shown)
    return ids.index_copy(0, index, shown), index


def _choose(
    sample: Batch,
    config: MaskingConfig,
    ordinary: Tensor,
    chance: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(N,) bool."""
    if config.by_word:
        words = sample["word"].masked_fill(~ordinary, -1)
        return choose_words(words, sample["preferred"], config.mask_ratio, generator)
    if config.policy == "token":
        return (chance < config.mask_ratio) & ordinary
    chosen = torch.zeros_like(ordinary)
    count = int(ordinary.sum())
    if count > 1:
        chosen[ordinary] = noise_mask(count, config.mask_ratio, config.mean_span, generator)
    return chosen


def choose_words(
    words: Tensor, preferred: Tensor, ratio: float, generator: torch.Generator
) -> Tensor:
    """Whole words in random order, preferred ones first, until their tokens are the share.

    A word that would go beyond the share is passed over.

    Args:
        words: (N,) the number of the word that each token belongs to; -1 is never chosen.
        preferred: (N,) True at tokens of words that come first.
        ratio: the share of the tokens that belong to words.
        generator: all chance.

    Returns:
        (N,) bool.
    """
    chosen = torch.zeros(len(words), dtype=torch.bool)
    inside = words >= 0
    if not inside.any():
        return chosen
    _, which, sizes = words[inside].unique(return_inverse=True, return_counts=True)
    first = torch.zeros(len(sizes)).index_add(0, which, preferred[inside].float()) > 0
    order = (torch.rand(len(sizes), generator=generator) - first.float()).argsort().tolist()
    left = max(1, round(ratio * len(which)))
    taken = torch.zeros(len(sizes), dtype=torch.bool)
    for word, size in zip(order, sizes[order].tolist(), strict=True):
        if size <= left:
            taken[word], left = True, left - size
    chosen[inside] = taken[which]
    return chosen
