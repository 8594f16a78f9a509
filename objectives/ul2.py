"""UL2's mixture of denoisers (arXiv 2205.05131): short, long and dense spans, and prefixes.

Each text gets one: a prefix of it with probability `prefix_share` (S), else one of two R- and four
X-denoisers, all alike in likelihood. A mode token can tell the encoder which kind it was.

Notation: N tokens of a text.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from zoo.modalities.contracts import Batch, Encoder
from zoo.objectives.span_denoising import SpanDenoising, SpanDenoisingConfig, written

__all__ = ["DENOISERS", "UL2", "UL2Config"]

# kind (0: R, 1: X), mean span, share of noise: table 1 of the paper
DENOISERS = (
    (0, 3.0, 0.15),
    (0, 8.0, 0.15),
    (1, 3.0, 0.5),
    (1, 8.0, 0.5),
    (1, 64.0, 0.15),
    (1, 64.0, 0.5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UL2Config:
    """The mixture."""

    prefix_share: float = 0.2  # of the texts; public re-implementations agree on about a fifth
    suffix_ratio: float = 0.25  # mean share of a text that the decoder continues
    mode_ids: tuple[int, ...] = ()  # ids of [R], [X] and [S], read first; none: not told

    def __post_init__(self) -> None:
        if not 0.0 <= self.prefix_share <= 1.0 or not 0.0 < self.suffix_ratio <= 0.5:
            raise ValueError("prefix_share must lie within 0 and 1, suffix_ratio within 0 and 0.5")
        if len(self.mode_ids) not in (0, 3):
            raise ValueError(f"mode_ids are those of [R], [X] and [S], got {len(self.mode_ids)}")


class UL2(SpanDenoising):
    """Batches are those of `SpanDenoising`."""

    config_class: ClassVar[type] = UL2Config

    def __init__(self, config: UL2Config, encoder: Encoder) -> None:
        super().__init__(SpanDenoisingConfig(), encoder)
        self.mixture = config

    def kinds(self) -> list[tuple[float, float]]:
        """Shares of noise and mean lengths of spans that may come."""
        return [(ratio, mean_span) for _, mean_span, ratio in DENOISERS]

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """One denoiser for the text `ids` (N,)."""
        which, kind = torch.rand(2, generator=generator).tolist()
        if which < self.mixture.prefix_share:
            mode, view = 2, self._continue(sample, kind)
        else:
            mode, mean_span, ratio = DENOISERS[int(kind * len(DENOISERS))]
            view = self.denoise(sample, ratio, mean_span, generator)
        if not self.mixture.mode_ids:
            return view
        ids = view["ids"]
        return view | {"ids": torch.cat([ids.new_tensor([self.mixture.mode_ids[mode]]), ids])}

    def _continue(self, sample: Batch, chance: float) -> Batch:
        """Prefix language modelling: the end of the text, of uniform length, behind a sentinel."""
        start, body, end = sample["ids"][:1], sample["ids"][1:-1], sample["ids"][-1:]
        suffix = max(1, round(len(body) * 2 * self.mixture.suffix_ratio * chance))
        cut = max(0, len(body) - suffix)
        sentinel = body.new_tensor([self.sentinels[0]])
        targets = torch.cat([sentinel, body[cut:], end])
        ids = torch.cat([start, body[:cut], sentinel, end])
        return sample | {"ids": ids} | written(targets, self.start_id)
