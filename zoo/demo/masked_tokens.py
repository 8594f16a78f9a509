"""How well masked tokens of unseen code are guessed: the pretrained model against token statistics.

Every method sees the same texts with the same 15 % of tokens hidden. The n-gram tables are counted
on the training texts, and may look at both neighbours of a hidden token, as the model may.

Notation: V vocabulary, M hidden tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.modalities.contracts import Encoder
from zoo.objectives.masked_lm import MaskedLM
from zoo.objectives.masking import MaskingConfig, corrupt

__all__ = ["Bigrams", "Hidden", "guesses", "hide"]

HIDDEN_SHARE = 0.15
_SMOOTHING = 1.0
_TOGETHER = 64  # texts of one batch

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hidden:
    """One text with some tokens hidden."""

    ids: Tensor  # (N,) with the mask's id at hidden places
    index: Tensor  # (m,) where
    truth: Tensor  # (m,) what stood there


def hide(texts: Iterable[Tensor], objective: MaskedLM, *, seed: int) -> list[Hidden]:
    """Hides 15 % of each text's ordinary tokens, all behind the mask."""
    generator = torch.Generator().manual_seed(seed)
    plain = MaskingConfig(mask_ratio=HIDDEN_SHARE, keep_share=0.0, random_share=0.0)
    out = []
    for ids in texts:
        shown, index = corrupt({"ids": ids}, plain, objective.vocabulary, generator)
        out.append(Hidden(shown, index, ids[index]))
    return out


@torch.inference_mode()
def guesses(encoder: Encoder, objective: MaskedLM, texts: Sequence[Hidden]) -> list[Tensor]:
    """The model's first choice for each hidden token, text by text."""
    found: list[Tensor] = []
    for start in range(0, len(texts), _TOGETHER):
        part = texts[start : start + _TOGETHER]
        samples = [{"ids": text.ids, "target_index": text.index} for text in part]
        batch = encoder.preprocess.collate(samples)
        choice = objective.predict(encoder, batch).argmax(-1)
        found += torch.split(choice, [len(text.index) for text in part])
    return found


class Bigrams:
    """Counts of single tokens and of neighbours."""

    def __init__(self, texts: Iterable[Tensor], vocab_size: int) -> None:
        self.pairs = np.zeros((vocab_size, vocab_size), dtype=np.float32)
        for ids in texts:
            np.add.at(self.pairs, (ids[:-1].numpy(), ids[1:].numpy()), 1.0)
        self.single = self.pairs.sum(axis=1)
        self.chance = (self.single + 1e-3) / (self.single + 1e-3).sum()

    def unigram(self, texts: Sequence[Hidden]) -> list[Tensor]:
        """The commonest token, everywhere."""
        best = int(self.single.argmax())
        return [torch.full_like(text.truth, best) for text in texts]

    def left(self, texts: Sequence[Hidden], mask_id: int) -> list[Tensor]:
        """The commonest token after the left neighbour, or of all where that is hidden."""
        best = np.where(self.pairs.sum(axis=1) > 0, self.pairs.argmax(axis=1), self.single.argmax())
        best[mask_id] = self.single.argmax()
        table = torch.from_numpy(best)
        return [table[text.ids[text.index - 1]] for text in texts]

    def both(self, texts: Sequence[Hidden], mask_id: int) -> list[Tensor]:
        """Argmax of P(x | left) P(right | x), smoothed; a hidden neighbour is left out."""
        return [self._both(text, mask_id) for text in texts]

    def _both(self, text: Hidden, mask_id: int) -> Tensor:
        left = text.ids[text.index - 1].numpy()
        right = text.ids[text.index + 1].numpy()
        prior = np.log(self.chance)
        after = np.log(self.pairs[left] + _SMOOTHING * self.chance)  # (m, V) up to a constant
        before = np.log(
            (self.pairs[:, right].T + _SMOOTHING * self.chance[right, None])
            / (self.single + _SMOOTHING)
        )
        score = np.where(left[:, None] == mask_id, prior, after)
        score += np.where(right[:, None] == mask_id, 0.0, before)
        return torch.from_numpy(score.argmax(axis=1))
