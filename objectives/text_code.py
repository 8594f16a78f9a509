"""Text-code contrast: a function and the text about it find each other among all of the batch.

The symmetric loss of CLIP (arXiv 2103.00020) with one encoder for both sides, as CodeT5+ (arXiv
2305.07922) trains its retriever; with its queue, where one is asked for. Pairs with the same text,
or the same code, are no negatives of each other.

Notation: B pairs of this process, D width of pooled features, E width of the vectors.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder, Features, Preprocess, Sample
from zoo.modalities.vocabulary import VocabularyEncoder
from zoo.objectives.content import content_id
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import info_nce
from zoo.objectives.logit_scale import LogitScale
from zoo.objectives.momentum_queue import MomentumQueue, QueueConfig

from zoo.errors import DataError

__all__ = ["TextCode", "TextCodeConfig", "sides", "vectors_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextCodeConfig(QueueConfig):
    """The temperature, the projection, the negatives and the queue."""

    temperature: float = 0.07
    learn_temperature: bool = True
    output_dim: int | None = None  # E, of a projection; none: the encoder's own vectors

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 1.0:
            raise ValueError(f"temperature must lie between 0.01 and 1, got {self.temperature}")
        self.check()


class TextCode(Objective):
    """Batches hold texts as `ids` with `lengths`, codes as `decoder_ids` with `decoder_lengths`.

    `pair_ids` (B, 2) says which texts, and which codes, are the same.
    """

    requires: ClassVar[type[Encoder]] = VocabularyEncoder
    config_class: ClassVar[type] = TextCodeConfig
    compares_samples = True

    def __init__(self, config: TextCodeConfig, encoder: Encoder) -> None:
        super().__init__()
        width, self.negatives = config.output_dim, config.negatives
        self.proj: nn.Module = (
            nn.Identity() if width is None else nn.Linear(encoder.embed_dim, width)
        )
        self.logit_scale = LogitScale(config.temperature, learned=config.learn_temperature)
        self.queue: MomentumQueue | None = None
        if config.queue:
            self.queue = MomentumQueue(
                encoder, self.proj, width=width or encoder.embed_dim, ids=2, config=config
            )

    def prepare(self, sample: Sample, preprocess: Preprocess, generator: torch.Generator) -> Batch:
        """Text and code of a pair, as `zoo shards build --unit pair` makes them.

        Raises:
            DataError: the sample has no `query` among its facts.
        """
        facts = sample.get("facts")
        query = facts.get("query") if isinstance(facts, dict) else None
        if not isinstance(query, str):
            raise DataError(
                "no text about the code: its json member has no `query`; zoo shards build "
                "--unit pair makes such samples"
            )
        code = preprocess.augment(sample, generator)
        text = preprocess.augment({"text": query}, generator)
        same = torch.tensor([[content_id(text["ids"]), content_id(code["ids"])]])
        longer = {"cut": text["cut"] | code["cut"]} if "cut" in text else {}
        return text | {"decoder_ids": code["ids"], "pair_ids": same} | longer

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The loss over all processes' pairs; metric `similarity` of text and code."""
        texts, codes = (vectors_of(self.proj, encoder(side)) for side in sides(batch))
        total = self.contrast(texts, codes, batch)
        return Losses(total=total, metrics={"similarity": (texts * codes).sum(1).mean()})

    def contrast(self, texts: Tensor, codes: Tensor, batch: Batch) -> Tensor:
        """The loss of both sides' vectors (B, E)."""
        scale, ids = self.logit_scale(), batch["pair_ids"]
        if self.queue is None:
            return info_nce(texts, codes, scale, ids, self.negatives)
        encoder, proj = self.queue.towers
        with torch.no_grad():
            keys = torch.stack([vectors_of(proj, encoder(side)) for side in sides(batch)])
        return self.queue.loss(torch.stack((texts, codes)), keys, scale, ids)

    def count(self, batch: Batch) -> int:
        """Pairs."""
        return len(batch["lengths"])

    def start(self, encoder: Encoder) -> None:
        """The slow copy begins with the same weights."""
        if self.queue is not None:
            self.queue.towers.follow(encoder, self.proj)

    def after_step(self, encoder: Encoder) -> None:
        """Keeps the temperature within its bounds; moves the slow copy and the queue."""
        self.logit_scale.clamp_()
        if self.queue is not None:
            self.queue.update(encoder, self.proj)


def sides(batch: Batch) -> tuple[Batch, Batch]:
    """The texts and the codes, each as an encoder reads them."""
    texts = {"ids": batch["ids"], "lengths": batch["lengths"]}
    return texts, {"ids": batch["decoder_ids"], "lengths": batch["decoder_lengths"]}


def vectors_of(proj: nn.Module, features: Features) -> Tensor:
    """(B, E) of unit length, float32."""
    return normalize(proj(features.pooled).float(), dim=-1)
