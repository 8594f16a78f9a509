"""Keys of a slowly moving copy, and a queue of past ones: MoCo (arXiv 1911.05722) for pairs.

As ALBEF (arXiv 2107.07651) and CodeT5+ (arXiv 2305.07922) have it: vectors of one side look for the
copy's vector of the other side among those of the global batch and of the last steps,

    L = 1/2 (CE(a . [B'; Q_b] / tau) + CE(b . [A'; Q_a] / tau)).

DEVIATION: samples that share an id are no negatives of each other, in the batch as in the queue;
the copy works without dropout.

Notation: n samples of this process, N of all, S of the queue, E width of vectors, K ids of a
sample.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.negatives import PLAIN, NegativesConfig, negative_sums, without_false
from zoo.objectives.similarity import Pairs
from zoo.objectives.teacher import SlowCopy

__all__ = ["MomentumQueue", "QueueConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """The negatives and the queue of past ones, as options of contrastive objectives."""

    queue: int = 0  # samples of past steps to be told apart from; none: those of the batch only
    momentum: float = 0.995  # queue: of the copy that makes its vectors
    negatives: NegativesConfig = PLAIN

    def check(self) -> None:
        """Raises ValueError where a number is out of bounds."""
        if self.queue < 0 or not 0.0 <= self.momentum < 1.0:
            raise ValueError("queue must not be negative, momentum lie between 0 and 1")


class MomentumQueue(nn.Module):
    """Made for what turns a batch into vectors: `towers` are slow copies of those modules.

    Attributes:
        vectors: (2, S, E) of unit length, of both sides; random ones at first, as MoCo's are.
        ids: (S, K) of their samples.
        place: () where the next ones go.
    """

    vectors: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, *modules: nn.Module, width: int, ids: int, config: QueueConfig) -> None:
        super().__init__()
        self.momentum, self.negatives = config.momentum, config.negatives
        self.towers = SlowCopy(*modules)
        vectors = normalize(torch.randn(2, config.queue, width), dim=-1)
        self.register_buffer("vectors", vectors)
        self.register_buffer("ids", torch.zeros(config.queue, ids, dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self._fresh: tuple[Tensor, Tensor] | None = None  # from `loss` to the `update` after it

    def loss(self, queries: Tensor, keys: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
        """The mean loss of this process's samples; all processes' keys wait for `update`.

        Args:
            queries: (2, n, E) of unit length, of both sides.
            keys: (2, n, E), what the towers make of the same; no gradients flow there.
            scale: one number, the inverse of the temperature.
            ids: (n, K) of the samples.
        """
        keys = keys.detach()
        batch = GlobalBatch.of(ids)
        everyone = batch.gather(keys.transpose(0, 1).contiguous()).transpose(0, 1)
        all_ids = batch.gather(ids)
        if self.training:
            self._fresh = everyone, all_ids
        pairs = Pairs(ids, torch.cat([all_ids, self.ids]))
        candidates = torch.cat([everyone, self.vectors], dim=1)
        if (above := self.negatives.false_above) is not None:
            pairs = without_false(pairs, keys.unbind(), candidates.unbind(), above)
        hardness, losses = self.negatives.hardness, []
        for side, other in ((0, 1), (1, 0)):
            rows, _ = negative_sums(
                queries[side], candidates[other], scale, pairs, hardness=hardness
            )
            positive = scale * (queries[side] * keys[other]).sum(1)
            losses.append(softplus(rows - positive).mean())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def update(self, *modules: nn.Module) -> None:
        """After an update of `modules`: copies move towards them, the last keys enter the queue."""
        self.towers.follow(*modules, weight=1.0 - self.momentum)
        if self._fresh is None:
            return
        (vectors, ids), self._fresh = self._fresh, None
        size = len(self.ids)
        vectors, ids = vectors[:, -size:], ids[-size:]
        places = (self.place + torch.arange(len(ids), device=ids.device)) % size
        self.vectors.index_copy_(1, places, vectors)
        self.ids.index_copy_(0, places, ids)
        self.place.add_(len(ids)).remainder_(size)
