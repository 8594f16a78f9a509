"""LOOK: labels by the nearest of all other samples, which need not be one heap (arXiv 2110.06014).

L = -1/N sum_i log sum_{j in N_k(i)} w_ij [y_j = y_i], w_ij = softmax over the k nearest others of
z_i . z_j / tau, of the samples of all processes. A class may have several heaps, so what sets its
members apart survives. Where no neighbour agrees, the share counts as 1e-8 and teaches nothing.

k, tau and the bank are not in public code: these are those of a miniature on digits; neighbours are
those of the batch, without the paper's queue.

Notation: n samples of this process, N of all, E width of vectors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from zoo.modalities.contracts import Encoder
from zoo.objectives.contract import Losses
from zoo.objectives.gather import GlobalBatch
from zoo.objectives.labels import LabelledObjective

__all__ = ["LOOK", "LOOKConfig", "leave_one_out_knn"]

_LEAST = 1e-8  # share of neighbours that agree


@dataclass(frozen=True, slots=True, kw_only=True)
class LOOKConfig:
    """The neighbours and the projector."""

    neighbours: int = 20  # k
    temperature: float = 0.1
    hidden_dim: int = 2048
    output_dim: int = 128

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.temperature <= 0:
            raise ValueError("neighbours must be at least 1, temperature positive")


class LOOK(LabelledObjective):
    """Batches are the encoder's with `label` (B,) or (B, 1), from samples that have a label."""

    config_class = LOOKConfig

    def __init__(self, config: LOOKConfig, encoder: Encoder) -> None:
        super().__init__(encoder, hidden_dim=config.hidden_dim, output_dim=config.output_dim)
        self.config = config

    def losses(self, z: Tensor, labels: Tensor) -> Losses:
        """The loss; metric `agreement`, the weighted share of neighbours of the same class."""
        k, temperature = self.config.neighbours, self.config.temperature
        shares = leave_one_out_knn(z, labels, k=k, temperature=temperature)
        total = -shares.clamp(min=_LEAST).log().mean()
        return Losses(total=total, metrics={"agreement": shares.mean()})


def leave_one_out_knn(z: Tensor, labels: Tensor, *, k: int, temperature: float) -> Tensor:
    """(n,) the weight of neighbours of one's own class, of vectors (n, E) and classes (n,)."""
    batch = GlobalBatch.of(z)
    everyone, classes = batch.gather(z), batch.gather(labels)
    logits = z @ everyone.T / temperature
    own = torch.arange(len(everyone), device=z.device)[batch.own]
    logits = logits.scatter(1, own.unsqueeze(1), -torch.inf)
    values, places = logits.topk(min(k, len(everyone) - 1), dim=1)
    agrees = classes[places] == labels.unsqueeze(1)
    return (values.softmax(1) * agrees).sum(1)
