"""SCARF: a row and its corruption find each other (arXiv 2106.15147).

In the corrupted view q = floor(c * C) cells of each row are those of the same column in a random
row of its block: the empirical marginal. NT-Xent by cosine over both views of all rows.

Notation: R rows of a block, C columns, D width.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.tables import TableEncoder
from zoo.objectives.column_views import repeat_rows
from zoo.objectives.contract import Losses, Objective
from zoo.objectives.contrastive_losses import nt_xent

__all__ = ["Scarf", "ScarfConfig", "corrupt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScarfConfig:
    """The corruption, the projector and the loss."""

    corruption: float = 0.6  # c
    temperature: float = 1.0
    hidden_dim: int = 256
    output_dim: int = 256

    def __post_init__(self) -> None:
        if not 0.0 < self.corruption <= 1.0:
            raise ValueError(f"corruption must lie between 0 and 1, got {self.corruption}")


class Scarf(Objective):
    """Batches hold each row twice in turn: as it is, and corrupted."""

    requires: ClassVar[type[Encoder]] = TableEncoder
    config_class = ScarfConfig
    compares_samples = True

    def __init__(self, config: ScarfConfig, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.projector = nn.Sequential(
            nn.Linear(encoder.dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, config.output_dim),
        )

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Rows twice, every second one corrupted."""
        rows, columns = len(sample["lengths"]), len(sample["names"])
        count = int(self.config.corruption * columns)
        ranks = torch.rand(rows, columns, generator=generator).argsort(dim=1).argsort(dim=1)
        donors = torch.randint(rows, (rows, columns), generator=generator)
        both = repeat_rows(sample, 2)
        for name in ("cell_number", "cell_value"):
            pool = sample[name].unflatten(0, (rows, columns))
            view = both[name].unflatten(0, (rows, 2, columns)).clone()
            view[:, 1] = corrupt(pool, pool, ranks < count, donors)
            both[name] = view.flatten()
        return both

    def forward(self, encoder: Encoder, batch: Batch) -> Losses:
        """NT-Xent; metric `similarity` of the two views."""
        projected = self.projector(encoder(batch).pooled).float()
        a, b = normalize(projected, dim=-1).unflatten(0, (-1, 2)).unbind(1)
        scale = torch.tensor(1 / self.config.temperature, device=a.device)
        return Losses(total=nt_xent(a, b, scale), metrics={"similarity": (a * b).sum(1).mean()})


def corrupt(x: Tensor, pool: Tensor, mask: Tensor, donors: Tensor) -> Tensor:
    """Cells (R, C) with those at `mask` taken from the rows `donors` (R, C) of `pool` (N, C)."""
    return torch.where(mask, pool.gather(0, donors), x)
