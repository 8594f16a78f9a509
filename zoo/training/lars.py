"""LARS (arXiv 1708.03888) as facebookresearch/mae uses it for linear probing.

timm has a LARS too; its trust ratio adds the norms of gradient and decay where the reference takes
the norm of their sum, so the numbers differ as soon as weight decay is not zero.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["LARS"]


class LARS(Optimizer):
    """Momentum SGD with steps scaled by |w| / |update|; one-dimensional tensors are plain."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update.add(p, alpha=group["weight_decay"])
                    norm, size = p.norm(), update.norm()
                    trust = group["trust_coefficient"] * norm / size
                    update = update * torch.where((norm > 0) & (size > 0), trust, 1.0)
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                p.sub_(buffer, alpha=group["lr"])
