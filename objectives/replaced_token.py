"""Replaced token detection (ELECTRA, arXiv 2003.10555).

A small generator fills in masked tokens; the encoder says of every token whether it was replaced.
Both share the embedding, no gradient goes through the sampling, and a token that the generator got
right counts as original. Total: L_generator + 50 L_encoder.

Notation: T tokens of a batch, M masked ones, D width, G width of the generator.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, gelu
from zoo.modalities.attention import attention, rotary, rotate
from zoo.modalities.blocks import Block
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.packing import Packed
from zoo.modalities.vocabulary import VocabularyEncoder
from zoo.objectives.contract import Losses
from zoo.objectives.lm_head import token_loss
from zoo.objectives.masked_lm import MaskedLM, MaskedLMConfig

__all__ = ["ReplacedToken", "ReplacedTokenConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplacedTokenConfig(MaskedLMConfig):
    """The generator, and what its mistakes weigh."""

    mask_ratio: float = 0.15
    keep_share: float = 0.0  # every chosen token is hidden from the generator
    random_share: float = 0.0
    generator_dim: int = 256
    generator_depth: int = 4
    generator_heads: int = 4
    encoder_weight: float = 50.0


class ReplacedToken(MaskedLM):
    """Batches are those of `MaskedLM`."""

    requires: ClassVar[type[Encoder]] = VocabularyEncoder
    config_class: ClassVar[type] = ReplacedTokenConfig

    def __init__(self, config: ReplacedTokenConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        width, heads = config.generator_dim, config.generator_heads
        if width % (2 * heads):
            raise ValueError(f"generator_dim {width} must be a multiple of 2 x heads {heads}")
        self.head_width, self.encoder_weight = width // heads, config.encoder_weight
        self.narrow = nn.Linear(encoder.dim, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, 4 * width, norm_eps=config.norm_eps)
            for _ in range(config.generator_depth)
        )
        self.widen = nn.Linear(width, encoder.dim)
        self.dense = nn.Linear(encoder.dim, encoder.dim)
        self.verdict = nn.Linear(encoder.dim, 1)

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Both losses; metrics `top1` of the generator and `found`, the encoder's accuracy."""
        assert isinstance(encoder, VocabularyEncoder)
        index, truth = batch["target_index"], batch["target_ids"]
        guesses = self.predict(encoder, batch)
        sampled = _sample(guesses.detach())
        shown = batch["ids"].index_copy(0, index, sampled)
        replaced = torch.zeros_like(shown, dtype=torch.bool)
        replaced[index] = sampled != truth
        states = encoder.encode(encoder.tokenize(batch | {"ids": shown})).x.flatten(0, 1)
        verdict = self.verdict(gelu(self.dense(states))).squeeze(-1).float()
        real = self.vocabulary.is_ordinary(shown)
        each = binary_cross_entropy_with_logits(verdict, replaced.float(), reduction="none")
        parts = {
            "generator": token_loss(guesses, truth),
            "encoder": (each * real).sum() / real.sum().clamp(min=1),
        }
        right = ((verdict > 0) == replaced) & real
        metrics = {
            "top1": (guesses.argmax(-1) == truth).float().mean(),
            "found": right.sum() / real.sum().clamp(min=1),
        }
        total = parts["generator"] + self.encoder_weight * parts["encoder"]
        return Losses(total=total, parts=parts, metrics=metrics)

    def predict(self, encoder: Encoder, batch: Batch) -> Tensor:
        """The generator's logits (M, V) at `target_index`."""
        assert isinstance(encoder, VocabularyEncoder)
        packed = Packed(batch["lengths"], batch["ids"].device)
        turn = rotary(packed.positions, self.head_width)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotate(q, turn), rotate(k, turn), v, packed=packed)

        x = self.narrow(encoder.embedding(batch["ids"]).unsqueeze(0))
        for block in self.blocks:
            x = block(x, attend)
        x = self.widen(x[0, batch["target_index"]])
        return self.head(x, encoder.embedding.weight)


def _sample(logits: Tensor) -> Tensor:
    """(M, V) -> (M,) ids drawn from the softmax, by the Gumbel trick."""
    noise = torch.empty_like(logits, dtype=torch.float32).exponential_().log()
    return (logits.float() - noise).argmax(-1)
