"""Batch norm over the samples of all processes (arXiv 1502.03167), for heads of objectives.

It always takes the batch as it is: nothing needs what it would be in evaluation. torch's
SyncBatchNorm does the same on GPUs only.

Notation: n samples of this process, N of all, D width.
"""

import torch
from torch import Tensor, nn
from zoo.objectives.gather import GlobalBatch

__all__ = ["BatchNorm", "standardized"]


class BatchNorm(nn.Module):
    """(n, D) -> (n, D) float32, with a scale and a shift unless `affine` is off."""

    def __init__(self, dim: int, *, affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Of mean 0 and variance 1 over N, then scaled and shifted."""
        normed = standardized(x.float(), GlobalBatch.of(x), eps=self.eps)
        if self.weight is None or self.bias is None:
            return normed
        return normed * self.weight + self.bias


def standardized(x: Tensor, batch: GlobalBatch, *, eps: float = 1e-5) -> Tensor:
    """(n, D) float32 of mean 0 and (biased) variance 1 over N."""
    total = sum(batch.sizes)
    centred = x - batch.sum(x.sum(0)) / total
    variance = batch.sum(centred.square().sum(0)) / total
    return centred * (variance + eps).rsqrt()
