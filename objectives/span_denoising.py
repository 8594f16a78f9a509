"""Span denoising of an encoder with a decoder: T5 (arXiv 1910.10683).

The encoder reads the text with a sentinel for each hidden span; the decoder writes the spans.
The tokenizer says which ids are sentinels and keeps them out of texts.

Notation: B texts, N tokens of a text, T written tokens of a batch.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.vocabulary import WriterEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.lm_head import token_loss
from zoo.objectives.spans import corrupt_spans, noise_mask, span_counts

__all__ = ["SpanDenoising", "SpanDenoisingConfig", "written"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanDenoisingConfig:
    """What is hidden."""

    noise_ratio: float = 0.15
    mean_span: float = 3.0

    def __post_init__(self) -> None:
        if not 0.0 < self.noise_ratio < 1.0 or self.mean_span < 1.0:
            raise ValueError("noise_ratio must lie between 0 and 1, mean_span be at least 1")


class SpanDenoising(Objective):
    """Batches hold `decoder_ids` and `decoder_targets` (T,) with `decoder_lengths` (B,).

    A text is `<s> ... </s>` with no special tokens inside; those two stay where they are.
    """

    requires: ClassVar[type[Encoder]] = WriterEncoder
    config_class: ClassVar[type] = SpanDenoisingConfig

    def __init__(self, config: SpanDenoisingConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, WriterEncoder)
        self.config = config
        self.sentinels, self.start_id = encoder.sentinels, encoder.decoder_start_id
        longest = max(2, encoder.max_length - 2)
        needed = max(span_counts(longest, *kind)[1] for kind in self.kinds())
        if len(self.sentinels) < needed:
            raise ValueError(
                f"texts of {encoder.max_length} tokens need {needed} sentinels, the tokenizer has "
                f"{len(self.sentinels)}: set preprocess.sentinel_ids, or a smaller max_length"
            )

    def kinds(self) -> list[tuple[float, float]]:
        """Shares of noise and mean lengths of spans that may come."""
        return [(self.config.noise_ratio, self.config.mean_span)]

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Hides spans of `ids` (N,); a text of fewer than two tokens is written whole."""
        config = self.config
        return self.denoise(sample, config.noise_ratio, config.mean_span, generator)

    def denoise(
        self, sample: Batch, ratio: float, mean_span: float, generator: torch.Generator
    ) -> Batch:
        """The views for some share and length of spans."""
        start, body, end = sample["ids"][:1], sample["ids"][1:-1], int(sample["ids"][-1])
        noise = torch.ones(len(body), dtype=torch.bool)
        if len(body) > 1:
            noise = noise_mask(len(body), ratio, mean_span, generator)
        read, targets = corrupt_spans(body, noise, sentinels=self.sentinels, eos_id=end)
        return sample | {"ids": torch.cat([start, read])} | written(targets, self.start_id)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Mean cross-entropy over the written tokens; metric `top1`."""
        assert isinstance(encoder, WriterEncoder)
        logits = encoder.logits(encoder.decode(encoder(batch), batch)).flatten(0, 1)
        targets = batch["decoder_targets"]
        top1 = (logits.argmax(-1) == targets).float().mean()
        return Losses(total=token_loss(logits, targets), metrics={"top1": top1})

    def count(self, batch: Batch) -> int:
        """Written tokens."""
        return len(batch["decoder_targets"])


def written(targets: Tensor, start_id: int) -> Batch:
    """What a decoder that is to write `targets` (n,) reads: the same, one place later."""
    return {
        "decoder_ids": torch.cat([targets.new_tensor([start_id]), targets[:-1]]),
        "decoder_targets": targets,
    }
