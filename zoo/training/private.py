"""DP-SGD (arXiv 1607.00133): each sample's gradient is clipped, and noise hides any one of them.

Numbers are those of opacus (golden `dp_clip`). What a run has spent is for an accountant to say,
such as `opacus.accountants`, from noise, sampling rate and steps; samples must be drawn for it
independently (Poisson), which the epochs of zoo's loader are not.

Notation: B samples, L parameter tensors, C clipping norm.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.errors import UsageError

__all__ = ["clipped_mean", "noised", "sample_gradients"]

_EPS = 1e-6  # opacus': keeps a gradient of zero


def sample_gradients(
    module: nn.Module, loss: Callable[[Any], Tensor], batch: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The gradient of every sample's own loss.

    Args:
        module: called with a batch of one sample, B times at once.
        loss: of what it returns, a scalar. It must be of this sample alone: a contrastive loss
            is not, and clipping would bound nothing.
        batch: tensors (B, ...).

    Returns:
        By name of the trainable parameter, (B, ...): B times the memory of the gradients.

    Raises:
        UsageError: a batch norm mixes the samples.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            raise UsageError(f"{name}: batch norm mixes samples, DP-SGD cannot bound one's part")
    trained = {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}

    def of_one(parameters: dict[str, Tensor], sample: dict[str, Tensor]) -> Tensor:
        alone = {name: value.unsqueeze(0) for name, value in sample.items()}
        return loss(functional_call(module, parameters, (alone,)))

    each = vmap(grad(of_one), in_dims=(None, 0), randomness="different")
    with sdpa_kernel(SDPBackend.MATH):  # vmap takes the other kernels' samples one by one
        gradients: dict[str, Tensor] = each(trained, dict(batch))
    return gradients


def clipped_mean(
    gradients: Mapping[str, Tensor], limit: float, *, per_layer: bool = False
) -> dict[str, Tensor]:
    """The mean over samples, none of which moves the sum by more than C.

    Args:
        gradients: (B, ...) each.
        limit: C.
        per_layer: clip every tensor to C / sqrt(L) by itself, instead of all together to C.
    """
    norms = torch.stack([g.reshape(len(g), -1).norm(dim=1) for g in gradients.values()])  # (L, B)
    if per_layer:
        limit /= math.sqrt(len(norms))
    else:
        norms = norms.norm(dim=0).expand_as(norms)
    factors = (limit / (norms + _EPS)).clamp(max=1.0) / norms.shape[1]
    return {
        name: torch.tensordot(factor, gradient, dims=1)
        for factor, (name, gradient) in zip(factors, gradients.items(), strict=True)
    }


def noised(
    mean: Mapping[str, Tensor],
    *,
    multiplier: float,
    limit: float,
    samples: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Adds N(0, (multiplier C / B)²) to every coordinate.

    Args:
        mean: what `clipped_mean` gave; it and the generator are on one device.
        multiplier: sigma, the noise relative to C.
        limit: C, in both ways of clipping.
        samples: B.
        generator: must be unknown to an attacker, so not seeded by the recipe.
    """
    scale = multiplier * limit / samples
    return {
        name: gradient
        + scale
        * torch.randn(
            gradient.shape, generator=generator, device=gradient.device, dtype=gradient.dtype
        )
        for name, gradient in mean.items()
    }
