"""Schedule-free AdamW (arXiv 2405.15682) from its authors' package.

It trains weights y and gives x, their running average, which takes the place of a falling learning
rate. y stays in the model and in checkpoints; whoever uses weights takes x, by `evaluated`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer

from zoo.errors import UsageError
from zoo.registry.recipe import TrainRecipe
from zoo.training.groups import Group

__all__ = ["evaluated", "schedule_free"]


def schedule_free(groups: list[Group], recipe: TrainRecipe, options: dict[str, Any]) -> Optimizer:
    """The optimiser, ready to train; warm-up comes from the run's own schedule.

    Raises:
        UsageError: the package is missing, or the recipe lowers the rate or averages once more.
    """
    if recipe.schedule != "constant":
        raise UsageError(
            f"optimizer 'schedulefree' replaces the schedule {recipe.schedule!r}: set "
            "train.schedule=constant (train.warmup stays)"
        )
    if recipe.ema is not None:
        raise UsageError("optimizer 'schedulefree' averages the weights itself: no train.ema")
    if options.get("betas", (0.9,))[0] == 0:
        raise UsageError("optimizer 'schedulefree' needs a first beta above 0")
    try:
        package = import_module("schedulefree")
    except ImportError:
        raise UsageError(
            "optimizer 'schedulefree' needs its package: pip install 'zoo[schedulefree]'"
        ) from None
    optimizer = package.AdamWScheduleFree(groups, recipe.peak_lr, **options)
    optimizer.train()
    return optimizer


@contextmanager
def evaluated(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """The weights to use, while it lasts: for validation and export; then the same bits as before.

    Changes nothing where no optimiser is schedule-free.
    """
    switched: list[Any] = [o for o in optimizers if "train_mode" in o.defaults]
    members = [p for o in switched for group in o.param_groups for p in group["params"]]
    # The package's own way back goes through a division, and a resumed run would drift from it.
    before = [p.detach().clone() for p in members]
    for optimizer in switched:
        optimizer.eval()
    try:
        yield
    finally:
        for optimizer in switched:
            optimizer.train()
        with torch.no_grad():
            for p, value in zip(members, before, strict=True):
                p.copy_(value)
