"""Linear layers of few numbers: low rank plus a sparse rest (SLTrain, arXiv 2406.02214).

W = B A alpha / r + S, where S holds trained values at fixed random places. Checkpoints hold the
factors under the names of the authors' code; `merged` gives plain layers to whoever uses a model.
Restarting from balanced factors (`refactorize`) is arXiv 2505.22922.

Notation: I inputs, O outputs, r rank, K values of the sparse part.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from zoo.errors import UsageError
from zoo.training.wrap import blocks_of

__all__ = ["SparseLowRankLinear", "merged", "reparametrize"]

M = TypeVar("M", bound=nn.Module)


class SparseLowRankLinear(nn.Module):
    """y = x Wᵀ + b; W (O, I) is made in the forward pass and once more in the backward pass.

    At first W is its sparse part alone, because B is zero.
    """

    sparse_index: Tensor  # (K,) into the flattened W, ascending

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        rank: int,
        alpha: float = 32.0,
        density: float = 0.03,
        bias: bool = True,
    ) -> None:
        """Draws places and values from torch's global generator.

        Args:
            in_features: I.
            out_features: O.
            rank: r, at most the smaller of I and O.
            alpha: the low-rank part is multiplied by alpha / r.
            density: K / (O I), rounded down.
            bias: whether there is one.

        Raises:
            UsageError: the rank or the density does not fit.
        """
        super().__init__()
        if not 1 <= rank <= min(in_features, out_features) or not 0 <= density <= 1:
            raise UsageError(
                f"a low-rank layer of {in_features} x {out_features} needs a rank up to "
                f"{min(in_features, out_features)} and a density in [0, 1], got {rank} and "
                f"{density:g}"
            )
        self.scale = alpha / rank
        size = in_features * out_features
        limit = 1 / math.sqrt(in_features)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank))
        self.sparse_value = nn.Parameter(torch.empty(int(density * size)).uniform_(-limit, limit))
        places = torch.randperm(size)[: len(self.sparse_value)]
        self.register_buffer("sparse_index", places.sort().values)
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(out_features), 1 / math.sqrt(out_features))

    @property
    def weight(self) -> Tensor:
        """W (O, I)."""
        low = self.lora_B @ (self.lora_A * self.scale)
        value = self.sparse_value.to(low.dtype)
        return low.flatten().index_add(0, self.sparse_index, value).view_as(low)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        # Kept for the backward pass, W would take the memory that the factors save.
        y = checkpoint(self._multiply, x, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(y, Tensor)
        return y

    def _multiply(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    @torch.no_grad()
    def refactorize(self) -> None:
        """Same product, balanced factors: B = U sqrt(S) and A = sqrt(S) Vᵀ of its singular values.

        Moments that an optimiser keeps of the old factors mean nothing afterwards.
        """
        # The product has rank r: its singular values are those of a small matrix.
        left, left_rest = torch.linalg.qr(self.lora_B)
        right, right_rest = torch.linalg.qr(self.lora_A.T)
        u, s, vt = torch.linalg.svd(left_rest @ right_rest.T)
        self.lora_B.copy_(left @ u * s.sqrt())
        self.lora_A.copy_(s.sqrt()[:, None] * (vt @ right.T))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same."""
        outputs, inputs = len(self.lora_B), self.lora_A.shape[1]
        device, has_bias = self.lora_A.device, self.bias is not None
        layer = nn.Linear(inputs, outputs, bias=has_bias, device=device, dtype=self.lora_A.dtype)
        layer.weight.copy_(self.weight)
        if self.bias is not None:
            layer.bias.copy_(self.bias)
        return layer


def reparametrize(
    module: nn.Module, *, rank: int, alpha: float = 32.0, density: float = 0.03
) -> None:
    """Puts a fresh low-rank layer in the place of every linear layer of the blocks.

    For training from the start: the weights that were there are gone.

    Raises:
        UsageError: the rank is too large for a layer.
    """
    for block in list(blocks_of(module)):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                low = SparseLowRankLinear(
                    layer.in_features,
                    layer.out_features,
                    rank=rank,
                    alpha=alpha,
                    density=density,
                    bias=layer.bias is not None,
                )
                block.set_submodule(name, low.to(layer.weight.device))


def merged(module: M) -> M:
    """A copy with plain linear layers, whose state fits the model as its card describes it."""
    plain = copy.deepcopy(module)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, SparseLowRankLinear):
            plain.set_submodule(name, layer.merged())
    return plain
