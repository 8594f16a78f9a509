"""Source text -> token ids, packed end to end.

Notation: B texts, N tokens of a text, T tokens of a batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from zoo.modalities.code.tokenizer import Tokenizer
from zoo.modalities.contracts import Batch, Preprocess, Raw, Sample

from zoo.errors import DataError, UsageError

__all__ = ["CodePreprocess", "CodePreprocessConfig"]

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodePreprocessConfig:
    """Constants that belong to a set of weights; the tokenizer is stored beside them."""

    max_length: int = 512  # tokens of a text, `<s>` and `</s>` included; the rest is cut


class CodePreprocess(Preprocess):
    """Text, path or decoded sample -> {"ids": int64 (N,)} as `<s> ... </s>`.

    A `str` is source text, a `Path` a file of it.
    """

    def __init__(self, config: CodePreprocessConfig, *, vocab_size: int) -> None:
        self.config, self.vocab_size = config, vocab_size
        self._tokenizer: Tokenizer | None = None

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
        ids = self.tokenizer.encode(_text(raw))[: self.config.max_length - 2]
        return {"ids": torch.tensor([Tokenizer.start_id, *ids, Tokenizer.end_id])}

    def length(self, sample: Batch) -> int:
        """How many ids it has."""
        return len(sample["ids"])

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """Packs: every field end to end, plus `lengths` (B,).

        A field called `*_index` points at tokens of its own text; it is shifted to keep doing so.
        """
        lengths = torch.tensor([len(sample["ids"]) for sample in samples])
        starts = lengths.cumsum(0) - lengths
        batch = {}
        for name in samples[0]:
            parts = [sample[name] for sample in samples]
            if name.endswith("_index"):
                parts = [part + start for part, start in zip(parts, starts, strict=True)]
            batch[name] = torch.cat(parts)
        return batch | {"lengths": lengths}

    def fit(self, samples: Iterable[Sample]) -> None:
        """Trains the tokenizer on the samples' texts."""
        self._tokenizer = Tokenizer.train((_text(sample) for sample in samples), self.vocab_size)

    def assets(self) -> dict[str, bytes]:
        """tokenizer.json, once there is one."""
        return {} if self._tokenizer is None else {TOKENIZER_FILE: self._tokenizer.to_bytes()}

    def load_assets(self, assets: Mapping[str, bytes]) -> None:
        """Takes tokenizer.json.

        Raises:
            DataError: it is no tokenizer, or has more ids than the encoder's table.
        """
        if TOKENIZER_FILE not in assets:
            return
        tokenizer = Tokenizer.from_bytes(assets[TOKENIZER_FILE])
        if tokenizer.vocab_size > self.vocab_size:
            raise DataError(
                f"the tokenizer has {tokenizer.vocab_size} ids, the encoder only {self.vocab_size}"
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
