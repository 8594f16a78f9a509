"""Prototypical probing: a class is a few prototypes, found anywhere on the map (arXiv 2504.12880).

Numbers match DBD-research-group/Bird-MAE. The reference upsamples the tokens and then compares each
place with each prototype; products are linear in the tokens, so here the tokens are compared first
and the few maps of products are upsampled, and only lengths need the upsampled tokens.

Notation: B samples, T prefix and N grid tokens, L places of the upsampled map, D width, K classes
of J prototypes each.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from zoo.probes.heads import Head

__all__ = ["Prototypical"]

_EPS = 1e-4
_COSINE = 1.01  # keeps cosines below 1
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Prototypical(Head):
    """logit_k = sum over j of relu(w_kj) max over places of relu(cos(place, p_kj)) + b_k."""

    learning_rates: ClassVar[dict[str, float]] = {"prototype_vectors": 0.04}

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        grid: tuple[int, ...],
        prefix: int = 0,
        per_class: int = 20,
        upsample: int = 2,
    ) -> None:
        """Prototypes uniform in [0, 1), weights 1, biases -2.

        Args:
            dim: D.
            classes: K.
            grid: of the tokens behind the prefix, one to three axes.
            prefix: T; where there are any, the first is subtracted from all others (focal
                similarity).
            per_class: J.
            upsample: how much finer the map is than the grid.
        """
        super().__init__()
        self.grid, self.prefix, self.upsample = grid, prefix, upsample
        self.prototype_vectors = nn.Parameter(torch.rand(classes * per_class, dim))
        self.weight = nn.Parameter(torch.ones(classes, per_class))
        self.bias = nn.Parameter(torch.full((classes,), -2.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T + N, D) -> (B, K)."""
        scores = self.similarity(tokens).flatten(2).amax(dim=-1)
        return (scores.unflatten(1, self.weight.shape) * self.weight.relu()).sum(-1) + self.bias

    def similarity(self, tokens: Tensor) -> Tensor:
        """(B, T + N, D) -> (B, K * J, *places), between 0 and 1: where each prototype is."""
        x = tokens[:, self.prefix :]
        if self.prefix:
            x = x - tokens[:, :1]
        maps = self._finer((x @ self.prototype_vectors.T).transpose(1, 2))
        lengths = self._finer(x.transpose(1, 2)).square().sum(dim=1, keepdim=True)
        # Upstream appends two constant channels of _EPS to both sides.
        lengths = (lengths + 2 * _EPS**2 + _EPS).sqrt()
        own = (self.prototype_vectors.square().sum(dim=1) + 2 * _EPS**2 + _EPS).sqrt() + _EPS
        own = own.view(1, -1, *(1 for _ in self.grid))
        return ((maps + 2 * _EPS**2) / (lengths * own * _COSINE)).relu()

    def penalty(self) -> Tensor:
        """How far the prototypes of a class are from orthogonal."""
        vectors = self.prototype_vectors.unflatten(0, self.weight.shape)
        unit = vectors / ((vectors.square().sum(-1, keepdim=True) + _EPS).sqrt() + _EPS)
        gram = unit @ unit.transpose(1, 2)
        gram = gram - torch.eye(gram.shape[1], device=gram.device)
        return gram.norm() / gram.numel()

    def _finer(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, *places)."""
        mode = _MODES[len(self.grid)]
        x = x.unflatten(2, self.grid)
        return interpolate(x, scale_factor=self.upsample, mode=mode) if self.upsample > 1 else x
