"""Causal language modelling (arXiv 2005.14165): each token from those before it in its text.

Notation: T tokens of a batch, B texts, M = T - B targets.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.vocabulary import CausalEncoder
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.lm_head import LMHead

__all__ = ["CausalLM", "CausalLMConfig", "next_token_loss", "next_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLMConfig:
    """The head, as that of `masked_lm`, so that either can go on with what the other learned."""

    head_bias: bool = False
    norm_eps: float = 1e-5


class CausalLM(Objective):
    """Batches need `ids` (T,) with `lengths` (B,) only."""

    requires: ClassVar[type[Encoder]] = CausalEncoder
    config_class = CausalLMConfig

    def __init__(self, config: CausalLMConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, CausalEncoder)
        self.head = LMHead(encoder, bias=config.head_bias, eps=config.norm_eps)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Mean cross-entropy of every token but the first of each text; metric `top1`."""
        assert isinstance(encoder, CausalEncoder)
        total, top1 = next_token_loss(encoder, self.head, batch)
        return Losses(total=total, metrics={"top1": top1})

    def count(self, batch: Batch) -> int:
        """Tokens that are not the first of their text."""
        return len(batch["ids"]) - len(batch["lengths"])


def next_token_loss(encoder: CausalEncoder, head: LMHead, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of every token but the first of each text."""
    index = next_tokens(batch["lengths"]).to(batch["ids"].device)
    tokens = encoder.encode(encoder.tokenize(batch), causal=True)
    states = tokens.x.flatten(0, 1)[index]
    return head.loss(states, encoder.embedding.weight, batch["ids"][index + 1])


def next_tokens(lengths: Tensor) -> Tensor:
    """(M,) positions that have a token of the same text behind them."""
    inside = torch.ones(int(lengths.sum()), dtype=torch.bool)
    inside[lengths.cumsum(0) - 1] = False
    return inside.nonzero().flatten()
