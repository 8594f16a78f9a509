"""Source text -> token ids, packed end to end.

Notation: B texts, N tokens of a text, T tokens of a batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from zoo.modalities.code.tokenizer import SPECIAL_TOKENS, Tokenizer
from zoo.modalities.code.words import mark_words, names_of
from zoo.modalities.contracts import Batch, Raw, Sample
from zoo.modalities.vocabulary import WordPreprocess

from zoo.errors import DataError, UsageError

__all__ = ["CodePreprocess", "CodePreprocessConfig"]

TOKENIZER_FILE = "tokenizer.json"
_OWN = ("start_id=1", "end_id=2", "mask_id=3", "ordinary_ids=none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePreprocessConfig:
    """Constants that belong to a set of weights; the tokenizer is stored beside them.

    The ids are those of a tokenizer that zoo trains; published ones have others.
    """

    max_length: int = 512  # tokens of a text, start and end included; the rest is cut
    start_id: int = Tokenizer.start_id  # `<s>`, or what stands for it
    end_id: int = Tokenizer.end_id
    mask_id: int = Tokenizer.mask_id
    ordinary_ids: tuple[int, int] | None = None  # of text: from, to below; all after the four
    sentinel_ids: tuple[int, int] | None = None  # for hidden spans: from, to below; of no text

    def __post_init__(self) -> None:
        if self.sentinel_ids is None:
            return
        first, end = self.sentinel_ids
        text = range(*self.ordinary_ids) if self.ordinary_ids else range(len(SPECIAL_TOKENS))
        others = (self.start_id, self.end_id, self.mask_id)
        if first >= end or max(first, text.start) < min(end, text.stop):
            raise ValueError(f"sentinel_ids [{first}, {end}] are none, or overlap ordinary_ids")
        if any(first <= number < end for number in others):
            raise ValueError(f"sentinel_ids [{first}, {end}] overlap the ids of start, end or mask")

    def ordinary(self, vocab_size: int) -> range:
        """Ids of text, the only ones that masking may hide or show at random."""
        end = vocab_size if self.sentinel_ids is None else self.sentinel_ids[0]
        return range(*(self.ordinary_ids or (len(SPECIAL_TOKENS), end)))

    @property
    def sentinels(self) -> range:
        """In the order of use, which is T5's: from the highest down."""
        first, end = self.sentinel_ids or (0, 0)
        return range(end - 1, first - 1, -1)

    @property
    def trains(self) -> bool:
        """Whether the ids are those of a tokenizer that zoo trains."""
        mine = (Tokenizer.start_id, Tokenizer.end_id, Tokenizer.mask_id)
        return (self.start_id, self.end_id, self.mask_id) == mine


class CodePreprocess(WordPreprocess):
    """Text, path or decoded sample -> `ids` int64 (N,) as `<s> ... </s>`, and `cut` (1,).

    A `str` is source text, a `Path` a file of it. `cut` is 1 where the text was too long;
    the attribute counts those of this process.
    """

    asset_names = (TOKENIZER_FILE,)

    def __init__(self, config: CodePreprocessConfig, *, vocab_size: int) -> None:
        if config.sentinels and config.sentinels[0] >= vocab_size:
            raise ValueError(
                f"sentinel_ids go up to {config.sentinels[0]}, vocab_size is {vocab_size}: set "
                "preprocess.sentinel_ids=none, or to others"
            )
        self.config, self.vocab_size = config, vocab_size
        self._tokenizer: Tokenizer | None = None
        self.cut = 0

    @property
    def ready(self) -> bool:
        """False until a tokenizer was trained or loaded."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            UsageError: there is none yet.
        """
        if self._tokenizer is None:
            raise UsageError(
                "this encoder has no tokenizer yet: pretraining trains one, zoo.load brings it, "
                "and encoder.preprocess.fit(samples) makes one from texts"
            )
        return self._tokenizer

    def __call__(self, raw: Raw) -> Batch:
        """Ids of one text, cut to `max_length`."""
        config, ids = self.config, self.tokenizer.encode(_text(raw))
        most = config.max_length - 2
        cut = int(len(ids) > most)
        self.cut += cut
        framed = torch.tensor([config.start_id, *ids[:most], config.end_id])
        return {"ids": framed, "cut": torch.tensor([cut])}

    def words(
        self, sample: Sample, *, identifiers: bool = False, lexicon: frozenset[str] = frozenset()
    ) -> Batch:
        """`word` and `preferred` (N,) of the ids that `__call__` gives."""
        text, facts = _text(sample), sample.get("facts")
        names = names_of(text, facts if isinstance(facts, dict) else {}) if identifiers else ()
        tokens = self.tokenizer.spans(text)[: self.config.max_length - 2]
        return mark_words(text, tokens, names=names, lexicon=lexicon)

    def length(self, sample: Batch) -> int:
        """How many ids it has."""
        return len(sample["ids"])

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """Packs: every field end to end, plus `lengths` (B,).

        A field called `*_index` points at tokens of its own text; it is shifted to keep doing so.
        `decoder_ids`, what a decoder reads, get `decoder_lengths` of their own.
        """
        lengths = torch.tensor([len(sample["ids"]) for sample in samples])
        starts = lengths.cumsum(0) - lengths
        batch = {}
        if "decoder_ids" in samples[0]:
            batch["decoder_lengths"] = torch.tensor([len(s["decoder_ids"]) for s in samples])
        for name in samples[0]:
            parts = [sample[name] for sample in samples]
            if name.endswith("_index"):
                parts = [part + start for part, start in zip(parts, starts, strict=True)]
            batch[name] = torch.cat(parts)
        return batch | {"lengths": lengths}

    def fit(self, samples: Iterable[Sample]) -> None:
        """Trains the tokenizer on the samples' texts; the ids of sentinels stay free.

        Raises:
            UsageError: the ids are those of a published tokenizer.
        """
        if not self.config.trains:
            raise UsageError(
                f"this encoder's ids are those of a published tokenizer: put its {TOKENIZER_FILE} "
                "beside the weights (train.init=FILE), or train one of your own with "
                f"{' '.join(f'preprocess.{option}' for option in _OWN)}"
            )
        size = self.config.ordinary(self.vocab_size).stop
        self._tokenizer = Tokenizer.train((_text(sample) for sample in samples), size)

    def assets(self) -> dict[str, bytes]:
        """tokenizer.json, once there is one."""
        return {} if self._tokenizer is None else {TOKENIZER_FILE: self._tokenizer.to_bytes()}

    def load_assets(self, assets: Mapping[str, bytes]) -> None:
        """Takes tokenizer.json.

        Raises:
            DataError: it is no tokenizer, or not the one that the weights were trained with.
        """
        if TOKENIZER_FILE not in assets:
            return
        tokenizer, config = Tokenizer.from_bytes(assets[TOKENIZER_FILE]), self.config
        if tokenizer.vocab_size > self.vocab_size:
            raise DataError(
                f"{TOKENIZER_FILE}: {tokenizer.vocab_size} ids, but the encoder's table has only "
                f"{self.vocab_size} rows: take the tokenizer of these weights"
            )
        for what, number in (
            ("start", config.start_id),
            ("end", config.end_id),
            ("mask", config.mask_id),
        ):
            if not tokenizer.special(number):
                raise DataError(
                    f"{TOKENIZER_FILE}: id {number} should be the {what} token, but is "
                    f"{tokenizer.token(number)!r}: take the tokenizer of these weights"
                )
        if taken := tokenizer.reserve(config.sentinels):
            raise DataError(
                f"{TOKENIZER_FILE}: id {taken[0]} should be a sentinel, but is "
                f"{tokenizer.token(taken[0])!r} of {len(taken)} tokens of text in their place: "
                "set preprocess.sentinel_ids to ids that it leaves free"
            )
        self._tokenizer = tokenizer


def _text(raw: Raw) -> str:
    source = raw["text"] if isinstance(raw, dict) else raw
    name = str(source) if isinstance(source, Path) else "text"
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except OSError as error:
            raise DataError(f"{name}: cannot read it ({error.strerror})") from None
    if isinstance(source, bytes):
        try:
            source = source.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 (byte {error.start})") from None
    if not isinstance(source, str):
        raise DataError(f"expected text, got {type(source).__name__}")
    return source
