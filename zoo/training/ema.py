"""An exponential average of the encoder's weights: torch's class, timm's warm-up of the decay.

Parameters are float32 in every precision that the engine knows, and so is their average.
"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["averaged"]

_POWER = 2 / 3  # timm's: the decay reaches 0.999 after 31,600 updates, 0.9999 after a million


class _Average(AveragedModel):
    def __init__(self, module: nn.Module, decay: float, *, warmup: bool) -> None:
        super().__init__(module)
        self._decay, self._warmup = decay, warmup

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """As torch's, without its copy of the counter to the GPU, for which the host would wait."""
        count, decay = int(self.n_averaged), self._decay
        if self._warmup:
            decay = min(decay, 1.0 - (1.0 + count) ** -_POWER)
        averages = [p.detach() for p in self.module.parameters()]
        parameters = [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(averages, parameters, 1.0 if count == 0 else 1.0 - decay)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1


def averaged(module: nn.Module, decay: float, *, warmup: bool = False) -> AveragedModel:
    """A copy that follows `module` with each `update_parameters(module)`.

    The first update copies; from then on parameters become decay * average +
    (1 - decay) * parameter, and buffers are copied.

    Args:
        module: what is averaged.
        decay: of the average.
        warmup: let the decay of update s (from 0) be 1 - (1 + s)^(-2/3), at most `decay`.
    """
    return _Average(module, decay, warmup=warmup)
