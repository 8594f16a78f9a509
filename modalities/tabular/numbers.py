"""Numbers as vectors: linear, periodic (PL, PLR), piecewise linear (PLE).

"On Embeddings for Numerical Features in Tabular Deep Learning", arXiv 2203.05556; numerics are
those of the package rtdl_num_embeddings. With one feature the same weights serve every column.

Notation: F features, K frequencies or bins, D width; inputs are (..., F).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import UsageError

__all__ = [
    "Linear",
    "Periodic",
    "PiecewiseLinear",
    "encode_piecewise",
    "quantile_bins",
    "tree_bins",
]


def _uniform(*shape: int, bound: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))


class Linear(nn.Module):
    """x * w + b for each feature, with a ReLU behind it where `relu`."""

    def __init__(self, features: int, dim: int, *, relu: bool = False) -> None:
        super().__init__()
        self.weight = _uniform(features, dim, bound=dim**-0.5)
        self.bias = _uniform(features, dim, bound=dim**-0.5)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., F, D)."""
        x = torch.addcmul(self.bias, self.weight, x.unsqueeze(-1))
        return x.relu() if self.relu else x


class Periodic(nn.Module):
    """[cos(2 pi w x), sin(2 pi w x)], a linear layer, and a ReLU: PLR; without the ReLU: PL.

    `shared` is the package's "lite": one linear layer for all features, which needs the ReLU.
    """

    def __init__(
        self,
        features: int,
        dim: int,
        *,
        frequencies: int = 48,
        sigma: float = 0.01,
        relu: bool = True,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if shared and not relu:
            raise UsageError("a shared periodic embedding needs its ReLU")
        self.relu, self.shared = relu, shared
        self.frequency = nn.Parameter(torch.empty(features, frequencies))
        if not self.frequency.is_meta:
            nn.init.trunc_normal_(self.frequency, std=sigma, a=-3 * sigma, b=3 * sigma)
        bound = (2 * frequencies) ** -0.5
        layers = 1 if shared else features
        self.weight = _uniform(layers, 2 * frequencies, dim, bound=bound)
        self.bias = _uniform(layers, dim, bound=bound)

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., F, D)."""
        angles = 2 * math.pi * self.frequency * x.unsqueeze(-1)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        x = (waves.unsqueeze(-2) @ self.weight).squeeze(-2) + self.bias
        return x.relu() if self.relu else x


class PiecewiseLinear(nn.Module):
    """A linear layer on the piecewise linear encoding; `relu` is version A of the package.

    Version B has no activation and a linear embedding of x beside it, so that it begins as one.
    """

    def __init__(self, bins: Sequence[Tensor], dim: int, *, relu: bool = True) -> None:
        super().__init__()
        self.bins = [edges.clone() for edges in bins]
        most = max(len(edges) for edges in bins) - 1
        self.relu = relu
        self.weight = nn.Parameter(torch.zeros(len(bins), most, dim))
        if relu:
            nn.init.uniform_(self.weight, -(most**-0.5), most**-0.5)
        self.bias = _uniform(len(bins), dim, bound=most**-0.5) if relu else None
        self.linear = None if relu else Linear(len(bins), dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., F) -> (..., F, D)."""
        most = self.weight.shape[1]
        parts = encode_piecewise(x, [edges.to(x) for edges in self.bins])
        even = [nn.functional.pad(part[..., :-1], (0, most - part.shape[-1])) for part in parts]
        last = [part[..., -1:] for part in parts]  # stands last whatever the number of bins
        stacked = torch.stack(
            [torch.cat(pair, dim=-1) for pair in zip(even, last, strict=True)], dim=-2
        )
        out = (stacked.unsqueeze(-2) @ self.weight).squeeze(-2)
        if self.linear is not None:
            return out + self.linear(x)
        assert self.bias is not None
        return (out + self.bias).relu()


def encode_piecewise(x: Tensor, bins: Sequence[Tensor]) -> list[Tensor]:
    """Piecewise linear encoding: component i is (x - b_i) / (b_{i+1} - b_i).

    Clamped to [0, 1] inside; the first is free below and the last above, so that values outside of
    the bins are told apart.

    Args:
        x: (..., F).
        bins: F ascending edges (K_f + 1,), K_f >= 1.

    Returns:
        (..., K_f) for each feature.
    """
    parts = []
    for feature, edges in enumerate(bins):
        part = (x[..., feature, None] - edges[:-1]) / (edges[1:] - edges[:-1])
        count = part.shape[-1]
        if count > 1:
            low = torch.zeros(count).to(part)
            high = torch.ones(count).to(part)
            low[0], high[-1] = -torch.inf, torch.inf
            part = part.clamp(low, high)
        parts.append(part)
    return parts


def quantile_bins(x: Tensor, count: int) -> list[Tensor]:
    """Edges of `count` bins of equal weight for each feature of x (N, F); ties are one edge.

    Raises:
        UsageError: a feature is constant.
    """
    share = torch.linspace(0.0, 1.0, count + 1)
    return [_edges(torch.quantile(column, share.to(column)), i) for i, column in enumerate(x.T)]


def tree_bins(
    x: Tensor, y: Tensor, count: int, *, regression: bool, least: int = 8
) -> list[Tensor]:
    """Edges where a decision tree on each feature alone splits y (N,).

    Args:
        x: (N, F).
        y: (N,) targets of the same rows.
        count: most bins of a feature.
        regression: y are numbers, else classes.
        least: rows of a bin.

    Raises:
        UsageError: a feature is constant.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeRegressor if regression else DecisionTreeClassifier
    bins = []
    for i, column in enumerate(x.T):
        tree = kind(max_leaf_nodes=count, min_samples_leaf=least, random_state=0)
        tree.fit(column[:, None].numpy(), y.numpy())
        inner = tree.tree_.threshold[tree.tree_.children_left >= 0]
        ends = torch.stack([column.min(), column.max()])
        bins.append(_edges(torch.cat([ends, torch.from_numpy(inner).to(column)]), i))
    return bins


def _edges(values: Tensor, feature: int) -> Tensor:
    edges = values.unique()
    if len(edges) < 2:
        raise UsageError(f"feature {feature} is constant: leave it out of the bins")
    return edges
