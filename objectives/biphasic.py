"""Causal language modelling first, masked language modelling then (arXiv 2507.00994).

One run with one optimiser and one schedule: the same encoder and head read from left to right for
`causal_steps`, then both ways. The paper lets the learning rate decay in the second phase only; a
quarter of the steps causal beat masked language modelling alone there.

Notation: T tokens of a batch, N tokens of a text.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.vocabulary import CausalEncoder
from zoo.objectives.causal_lm import next_token_loss
from zoo.objectives.contract import Losses
from zoo.objectives.masked_lm import MaskedLM, MaskedLMConfig

__all__ = ["Biphasic", "BiphasicConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BiphasicConfig(MaskedLMConfig):
    """Both phases."""

    mask_ratio: float = 0.4
    causal_steps: int  # updates before the masks begin

    def __post_init__(self) -> None:
        MaskedLMConfig.__post_init__(self)
        if self.causal_steps < 0:
            raise ValueError(f"causal_steps must not be negative, got {self.causal_steps}")


class Biphasic(MaskedLM):
    """Batches are those of `MaskedLM` with `clean_ids` (T,): loaders do not know the phase."""

    requires: ClassVar[type[Encoder]] = CausalEncoder
    config_class: ClassVar[type] = BiphasicConfig
    updates: Tensor

    def __init__(self, config: BiphasicConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        self.causal_steps = config.causal_steps
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def is_causal(self) -> bool:
        """Whether the first phase goes on."""
        return bool(self.updates < self.causal_steps)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """The masked text, and the text as it is."""
        return super().views(sample, generator) | {"clean_ids": sample["ids"]}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """The phase's mean cross-entropy; metrics `top1` and `causal`, 1 in the first phase."""
        if not self.is_causal:
            losses = super().forward(encoder, batch)
        else:
            assert isinstance(encoder, CausalEncoder)
            clean = batch | {"ids": batch["clean_ids"]}
            total, top1 = next_token_loss(encoder, self.head, clean)
            losses = Losses(total=total, metrics={"top1": top1})
        causal = losses.total.new_tensor(float(self.is_causal))
        return replace(losses, metrics=losses.metrics | {"causal": causal})

    def count(self, batch: Batch) -> int:
        """The targets of the phase."""
        if self.is_causal:
            return len(batch["ids"]) - len(batch["lengths"])
        return super().count(batch)

    def after_step(self, encoder: Encoder) -> None:
        """Counts updates."""
        self.updates += 1
