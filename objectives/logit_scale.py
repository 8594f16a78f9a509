"""The temperature of contrastive logits as CLIP learns it (arXiv 2103.00020): by its logarithm."""

import math

import torch
from torch import Tensor, nn

__all__ = ["LogitScale"]

_MOST = math.log(100.0)  # CLIP found that larger scales make training unstable


class LogitScale(nn.Module):
    """scale = exp(log_scale), one number; fixed, or learned between 1 and 100."""

    def __init__(self, temperature: float, *, learned: bool) -> None:
        super().__init__()
        # One axis, because FSDP divides parameters along their first one.
        start = torch.tensor([-math.log(temperature)])
        self.log_scale = nn.Parameter(start, requires_grad=learned)

    def forward(self) -> Tensor:
        """(1,), the inverse of the temperature."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_(self) -> None:
        """Back into the bounds, after an update."""
        if self.log_scale.requires_grad:
            self.log_scale.clamp_(0.0, _MOST)
