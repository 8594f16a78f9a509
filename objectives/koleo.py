"""KoLeo: vectors keep away from their nearest neighbour (arXiv 1806.03198), as in DINOv2.

L = -1/N sum_i log(min_{j != i} |z_i - z_j| + eps) of vectors of unit length; neighbours are those
of the samples of all processes.

Notation: n samples of this process, N of all, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pairwise_distance
from zoo.objectives.gather import GlobalBatch

__all__ = ["koleo"]


def koleo(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    """The loss of vectors (n, D) of any length; 0 where there is only one."""
    batch = GlobalBatch.of(x)
    z = normalize(x.float(), dim=-1)
    everyone = batch.gather(z)
    if len(everyone) < 2:
        return z.sum() * 0.0
    own = torch.arange(len(everyone), device=z.device)[batch.own]
    alike = (z.detach() @ everyone.detach().T).scatter(1, own.unsqueeze(1), -2.0)
    distances = pairwise_distance(z, everyone[alike.argmax(1)], eps=eps)
    return -(distances + eps).log().mean()
