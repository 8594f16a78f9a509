"""Masked language modelling on packed token ids (arXiv 1810.04805), 30 % masked as MosaicBERT does.

Of the chosen tokens 80 % become `<mask>`, 10 % a random id, 10 % stay. Only chosen positions go
through the head, whose last layer is tied to the encoder's embedding.

Notation: T tokens of a batch, M chosen ones, N tokens of a text, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear
from zoo.modalities.contracts import Batch, Encoder, VocabularyEncoder
from zoo.objectives.contract import Losses, Objective

__all__ = ["MaskedLM", "MaskedLMConfig", "corrupt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLMConfig:
    """The pretext task."""

    mask_ratio: float = 0.3
    keep_share: float = 0.1  # of the chosen tokens: shown as they are
    random_share: float = 0.1  # of the chosen tokens: shown as a random id

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ValueError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")
        if not 0.0 <= self.keep_share + self.random_share <= 1.0:
            raise ValueError("keep_share + random_share must lie between 0 and 1")


class MaskedLM(Objective):
    """Batches need `target_index` (M,) into the T tokens and `target_ids` (M,), from `views`."""

    requires: ClassVar[type[Encoder]] = VocabularyEncoder
    config_class = MaskedLMConfig

    def __init__(self, config: MaskedLMConfig, encoder: Encoder) -> None:
        super().__init__()
        assert isinstance(encoder, VocabularyEncoder)
        self.config = config
        self.vocab_size = encoder.vocab_size
        self.mask_id = encoder.mask_id
        self.num_special = encoder.num_special
        self.dense = nn.Linear(encoder.dim, encoder.dim, bias=False)
        self.norm = nn.LayerNorm(encoder.dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.vocab_size))
        nn.init.trunc_normal_(self.dense.weight, std=0.02)

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Corrupts `ids` (N,) and says what was there."""
        ids, index = corrupt(
            sample["ids"],
            self.config,
            mask_id=self.mask_id,
            num_special=self.num_special,
            vocab_size=self.vocab_size,
            generator=generator,
        )
        return sample | {"ids": ids, "target_index": index, "target_ids": sample["ids"][index]}

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """Mean cross-entropy over the chosen tokens; metric `top1`."""
        logits = self.predict(encoder, batch)
        targets = batch["target_ids"]
        # A batch of empty texts has no target: its loss is 0, not 0 / 0.
        loss = cross_entropy(logits.float(), targets, reduction="sum") / max(1, len(targets))
        return Losses(total=loss, metrics={"top1": (logits.argmax(-1) == targets).float().mean()})

    def predict(self, encoder: Encoder, batch: Batch) -> Tensor:
        """Logits (M, V) at `target_index`."""
        assert isinstance(encoder, VocabularyEncoder)
        tokens = encoder.encode(encoder.tokenize(batch))
        x = tokens.x.flatten(0, 1)[batch["target_index"]]
        x = self.norm(gelu(self.dense(x)))
        return linear(x, encoder.embedding.weight, self.bias)

    def count(self, batch: Batch) -> int:
        """Chosen tokens."""
        return len(batch["target_ids"])


def corrupt(
    ids: Tensor,
    config: MaskedLMConfig,
    *,
    mask_id: int,
    num_special: int,
    vocab_size: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Masks one text.

    Each token that is not special is chosen with probability `mask_ratio`; if chance chose none,
    one is, so that every text has a target.

    Args:
        ids: (N,) token ids; ids below `num_special` are never chosen.
        config: ratio and shares.
        mask_id: what a masked token is shown as.
        num_special: the number of special ids, at the start of the vocabulary.
        vocab_size: V; random replacements come from [num_special, V).
        generator: all chance.

    Returns:
        The corrupted ids (N,) and the chosen positions (M,), ascending.
    """
    chance = torch.rand(3, len(ids), generator=generator)
    ordinary = ids >= num_special
    chosen = (chance[0] < config.mask_ratio) & ordinary
    if not chosen.any() and ordinary.any():
        chosen[chance[0].masked_fill(~ordinary, 2.0).argmin()] = True
    index = chosen.nonzero().flatten()
    fate = chance[1, index]
    random_ids = num_special + (chance[2, index] * (vocab_size - num_special)).long()
    shown = torch.full_like(index, mask_id)
    shown = torch.where(fate < config.random_share, random_ids, shown)
    shown = torch.where(fate >= 1.0 - config.keep_share, ids[index], shown)
    return ids.index_copy(0, index, shown), index
