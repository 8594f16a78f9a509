"""An exponential average of the encoder's weights: torch's class, timm's warm-up of the decay.

Parameters are float32 in every precision that the engine knows, and so is their average.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

__all__ = ["averaged"]

_POWER = 2 / 3  # timm's: the decay reaches 0.999 after 31,600 updates, 0.9999 after a million

Tensors = list[Tensor] | tuple[Tensor, ...]


def averaged(module: nn.Module, decay: float, *, warmup: bool = False) -> AveragedModel:
    """A copy that follows `module` with each `update_parameters(module)`.

    The first update copies; from then on parameters become decay * average +
    (1 - decay) * parameter, and buffers are copied.

    Args:
        module: what is averaged.
        decay: of the average.
        warmup: let the decay of update s (from 0) be 1 - (1 + s)^(-2/3), at most `decay`.
    """

    @torch.no_grad()
    def update(averages: Tensors, parameters: Tensors, _: Tensor | int) -> None:
        now = decay
        if warmup:  # our own counter lies on the host; a GPU's would have to be waited for
            now = min(decay, 1.0 - (1.0 + int(average.n_averaged)) ** -_POWER)
        torch._foreach_lerp_(averages, parameters, 1.0 - now)

    average = AveragedModel(module, multi_avg_fn=update)
    return average
