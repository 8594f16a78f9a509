"""Parameter groups and optimisers, all of them torch's own."""

import re
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from zoo.registry.recipe import TrainRecipe

__all__ = ["build_optimizers", "parameter_groups"]

# Matrices between hidden layers. Embeddings, patch projections, heads, tokens and position tables
# are two-dimensional too, and Muon is wrong for them.
_HIDDEN = re.compile(r"(^|\.)\w*blocks\.\d+\.")

Named = Iterable[tuple[str, nn.Parameter]]


def parameter_groups(named: Named, weight_decay: float) -> list[dict[str, object]]:
    """Parameters in two groups: one-dimensional ones (norms, biases) do not decay."""
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for _, parameter in named:
        (plain if parameter.ndim <= 1 else decay).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizers(named: Named, recipe: TrainRecipe) -> list[Optimizer]:
    """Optimisers that share one schedule and together hold every trainable parameter once.

    AdamW is fused, which is six times faster than the plain loop on the CPU too. Muon
    (torch.optim) scales its steps to AdamW's size, so that learning rate and weight decay carry
    over.
    """
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    hidden: list[nn.Parameter] = []
    if recipe.optimizer == "muon":
        hidden = [p for name, p in trainable if p.ndim == 2 and _HIDDEN.search(name)]
    taken = {id(p) for p in hidden}
    rest = [(name, p) for name, p in trainable if id(p) not in taken]
    groups = parameter_groups(rest, recipe.weight_decay)
    optimizers: list[Optimizer] = [AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, fused=True)]
    if hidden:
        muon = Muon(
            hidden,
            lr=recipe.peak_lr,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        optimizers.append(muon)
    return optimizers
