"""Text-code contrast: a function and the text about it find each other among all of the batch.

The symmetric loss of CLIP (arXiv 2103.00020) with one encoder for both sides, as CodeT5+ (arXiv
2305.07922) trains its retriever. DEVIATION: no queue of a momentum encoder's vectors; negatives are
those of the global batch, which for a retriever is what larger batches are for.

Notation: B pairs of this process, D width of pooled features, E width of the vectors.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Preprocess, Sample
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import info_nce
from zoo.objectives.logit_scale import LogitScale

from zoo.errors import DataError

__all__ = ["TextCode", "TextCodeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCodeConfig:
    """The temperature and the projection."""

    temperature: float = 0.07
    learn_temperature: bool = True
    output_dim: int | None = 256  # E; none: the encoder's own vectors, without a projection

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1.0:
            raise ValueError(f"temperature must lie between 0.01 and 1, got {self.temperature}")


class TextCode(Objective):
    """Batches hold texts as `ids` with `lengths`, codes as `decoder_ids` with `decoder_lengths`."""

    config_class: ClassVar[type] = TextCodeConfig
    compares_samples = True

    def __init__(self, config: TextCodeConfig, encoder: Encoder) -> None:
        super().__init__()
        width = config.output_dim
        self.proj: nn.Module = (
            nn.Identity() if width is None else nn.Linear(encoder.embed_dim, width)
        )
        self.logit_scale = LogitScale(config.temperature, learned=config.learn_temperature)

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Text and code of a pair, as `zoo shards build --unit pair` makes them.

        Raises:
            DataError: the sample has no `query` among its facts.
        """
        facts = sample.get("facts")
        query = facts.get("query") if isinstance(facts, dict) else None
        if not isinstance(query, str):
            raise DataError("no text about the code: its json member has no `query`")
        code = preprocess.augment(sample, generator)["ids"]
        return preprocess.augment({"text": query}, generator) | {"decoder_ids": code}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' pairs; metric `similarity` of text and code."""
        texts = self.project(encoder, {"ids": batch["ids"], "lengths": batch["lengths"]})
        codes = self.project(
            encoder, {"ids": batch["decoder_ids"], "lengths": batch["decoder_lengths"]}
        )
        total = info_nce(texts, codes, self.logit_scale())
        return Losses(total=total, metrics={"similarity": (texts * codes).sum(1).mean()})

    def project(self, encoder: Encoder, batch: Batch) -> Tensor:
        """(B, E) of unit length, float32."""
        return normalize(self.proj(encoder(batch).pooled).float(), dim=-1)

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["lengths"])

    def after_step(self) -> None:
        """Keeps the temperature within its bounds."""
        self.logit_scale.clamp_()
