"""Classes of entities by cosines, a part of them at a time: MOFI's second task (arXiv 2306.07952).

L = -1/N sum_i log softmax_c ((w_c . z_i - m [c = y_i]) / tau) at c = y_i, all of unit length; c
goes over the classes of the batch and, where there are millions, some that are drawn each step.

Margin, temperature and number of drawn classes are not in public code: defaults are ours.

Notation: n samples of this process, N of all, E width, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot
from zoo.objectives.gather import GlobalBatch

__all__ = ["EntitiesConfig", "EntityClassifier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitiesConfig:
    """The classes of `cls` members, as a second task of images with captions."""

    count: int = 0  # C; none: captions alone
    sampled: int | None = None  # drawn each step beside those of the batch; none: all take part
    margin: float = 0.0
    temperature: float = 0.03
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 0 or (self.sampled or 0) < 0 or self.temperature <= 0 or self.weight < 0:
            raise ValueError(
                "entities: count, sampled and weight must not be negative, temperature positive"
            )


class EntityClassifier(nn.Module):
    """One vector a class."""

    def __init__(self, dim: int, config: EntitiesConfig) -> None:
        super().__init__()
        self.config = config
        self.prototypes = nn.Parameter(torch.empty(config.count, dim))
        if not self.prototypes.is_meta:
            nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of vectors (n, E) of unit length, float32, and classes (n,)."""
        config, chosen = self.config, self._chosen(labels)
        cosines = z @ normalize(self.prototypes[chosen], dim=1).T
        places = torch.searchsorted(chosen, labels)
        margins = config.margin * one_hot(places, len(chosen))
        return cross_entropy((cosines - margins) / config.temperature, places)

    def _chosen(self, labels: Tensor) -> Tensor:
        """The classes that take part, ascending and the same in all processes."""
        count, sampled = self.config.count, self.config.sampled
        if sampled is None:
            return torch.arange(count, device=labels.device)
        batch = GlobalBatch.of(labels)
        drawn = torch.randint(count, (sampled,), device=labels.device)
        return torch.cat([batch.gather(labels), batch.stack(drawn)[0]]).unique()
