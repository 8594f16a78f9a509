"""Masked language modelling on packed token ids (arXiv 1810.04805), 30 % masked as MosaicBERT does.

Only chosen positions go through the head, whose last layer is tied to the encoder's embedding.

Notation: T tokens of a batch, M chosen ones, N tokens of a text, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.modalities.vocabulary import VocabularyEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.lm_head import LMHead
from zoo.objectives.masking import MaskingConfig, Vocabulary, corrupt, mark_words

__all__ = ["MaskedLM", "MaskedLMConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLMConfig(MaskingConfig):
    """The pretext task and its head."""

    head_bias: bool = False  # of the head's linear layer and norm: BERT and MosaicBERT have them
    norm_eps: float = 1e-5


class MaskedLM(Objective):
    """Batches need `target_index` (M,) into the T tokens and `target_ids` (M,), from `views`."""

    requires: ClassVar[type[Encoder]] = VocabularyEncoder
    config_class: ClassVar[type] = MaskedLMConfig

    def __init__(self, config: MaskedLMConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, VocabularyEncoder)
        self.config = config
        self.vocabulary = Vocabulary.of(encoder)
        self.head = LMHead(encoder, bias=config.head_bias, eps=config.norm_eps)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """The masked text."""
        words = mark_words(sample, preprocess, self.config)
        return self.views(preprocess.augment(sample, generator) | words, generator)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Corrupts `ids` (N,) and says what was there."""
        shown, index = corrupt(sample, self.config, self.vocabulary, generator)
        ids = sample["ids"]
        rest = {name: sample[name] for name in sample if name not in ("word", "preferred")}
        return rest | {"ids": shown, "target_index": index, "target_ids": ids[index]}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Mean cross-entropy over the chosen tokens; metric `top1`."""
        assert isinstance(encoder, VocabularyEncoder)
        states = encoder.states(batch, batch["target_index"])
        total, top1 = self.head.loss(states, encoder.embedding.weight, batch["target_ids"])
        return Losses(total=total, metrics={"top1": top1})

    def predict(self, encoder: Encoder, batch: Batch) -> Tensor:
        """Logits (M, V) at `target_index`."""
        assert isinstance(encoder, VocabularyEncoder)
        states = encoder.states(batch, batch["target_index"])
        return self.head(states, encoder.embedding.weight)

    def count(self, batch: Batch) -> int:
        """Chosen tokens."""
        return len(batch["target_ids"])
