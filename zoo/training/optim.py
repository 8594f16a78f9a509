"""Optimisers by name: torch's, timm's, and a few that neither has."""

import inspect
from collections.abc import Collection
from importlib import import_module
from typing import Any

from torch.optim import AdamW, Muon, Optimizer

from zoo.errors import UnknownNameError, UsageError
from zoo.registry.recipe import TrainRecipe
from zoo.training.groups import Group, Named, is_hidden, layer_scales, parameter_groups
from zoo.training.lars import LARS
from zoo.training.projected import ProjectedAdamW, Projection
from zoo.training.schedule_free import schedule_free

__all__ = ["build_optimizers"]

_OPTIONS = ("betas", "eps", "momentum", "projection_rank", "projection_gap")
# What the optimisers that are not timm's take of them.
_OWN = {
    "adamw": ("betas", "eps"),
    "adamw-amsgrad": ("betas", "eps"),
    "lars": ("momentum",),
    "muon": ("betas", "eps", "momentum"),
    "galore": ("betas", "eps", "projection_rank", "projection_gap"),
    "conda": ("betas", "eps", "projection_rank", "projection_gap"),
    "schedulefree": ("betas", "eps"),
}
# The first needs second derivatives, the second keeps lists that no safetensors file holds, and
# the others are of packages that only serve CUDA.
_REFUSED = ["adahessian", "*kron*", "bnb*", "fused*"]


def build_optimizers(named: Named, recipe: TrainRecipe) -> list[Optimizer]:
    """Optimisers that share one schedule and together hold every trainable parameter once.

    AdamW is fused, which is six times faster than the plain loop on the CPU too. Muon
    (torch.optim) scales its steps to AdamW's size, so that learning rate and weight decay carry
    over. `lars` is the one of MAE's linear probing (zoo.training.lars), `schedulefree` keeps two
    sets of weights (zoo.training.schedule_free).

    Args:
        named: the model's parameters, in its order.
        recipe: names the optimiser and its options.

    Raises:
        UnknownNameError: there is no such optimiser.
        UsageError: it does not take an option that the recipe gives, or its package is missing.
    """
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    scales = layer_scales([name for name, _ in trainable], recipe.layer_decay or 1.0)
    hidden, rest = (
        parameter_groups(
            [item for item in trainable if is_hidden(*item) == wanted], recipe.weight_decay, scales
        )
        for wanted in (True, False)
    )
    if recipe.optimizer not in _OWN:
        return [_from_timm(hidden, rest, recipe)]
    options, lr = _options(recipe, _OWN[recipe.optimizer]), recipe.peak_lr
    if recipe.optimizer in ("adamw", "adamw-amsgrad"):
        amsgrad = recipe.optimizer == "adamw-amsgrad"
        return [AdamW([*hidden, *rest], lr, **options, amsgrad=amsgrad, fused=True)]
    if recipe.optimizer == "lars":
        return [LARS([*hidden, *rest], lr, **options)]
    if recipe.optimizer == "schedulefree":
        return [schedule_free([*hidden, *rest], recipe, options)]
    return _hybrid(hidden, rest, recipe, options)


def _hybrid(
    hidden: list[Group], rest: list[Group], recipe: TrainRecipe, options: dict[str, Any]
) -> list[Optimizer]:
    """AdamW, and beside it one that is for hidden matrices only."""
    adam = {name: options[name] for name in ("betas", "eps") if name in options}
    lr = recipe.peak_lr
    optimizers: list[Optimizer] = [AdamW(rest, lr, **adam, fused=True)] if rest else []
    if hidden and recipe.optimizer == "muon":
        momentum = {name: options[name] for name in ("momentum",) if name in options}
        optimizers.append(Muon(hidden, lr, adjust_lr_fn="match_rms_adamw", **momentum))
    elif hidden:
        projection = Projection(
            space="gradient" if recipe.optimizer == "galore" else "momentum",
            rank=recipe.projection_rank,
            gap=recipe.projection_gap or (200 if recipe.optimizer == "galore" else 2000),
        )
        optimizers.append(ProjectedAdamW(hidden, lr, projection, **adam))
    return optimizers


def _from_timm(hidden: list[Group], rest: list[Group], recipe: TrainRecipe) -> Optimizer:
    """One that `timm.optim` knows; importing it takes seconds, so only now."""
    timm_optim = import_module("timm.optim")
    name = recipe.optimizer
    known = timm_optim.list_optimizers(exclude_filters=_REFUSED)
    if name not in known:
        raise UnknownNameError("optimizer", name, {*_OWN, *known})
    takes = inspect.signature(timm_optim.get_optimizer_class(name, bind_defaults=False)).parameters
    options = _options(recipe, takes, betas=timm_optim.get_optimizer_info(name).num_betas)
    if "muon" in name:
        # timm goes by shapes alone, and would take heads and embeddings for hidden matrices.
        rest = [{**group, "use_fallback": True} for group in rest]
    groups = [*hidden, *rest]
    return timm_optim.create_optimizer_v2(groups, name, lr=recipe.peak_lr, **options)


def _options(recipe: TrainRecipe, takes: Collection[str], *, betas: int = 2) -> dict[str, Any]:
    """The options that the recipe gives, all of which the optimiser takes."""
    given = {name: getattr(recipe, name) for name in _OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    name = recipe.optimizer
    if wrong := given.keys() - takes:
        fits = ", ".join(f"train.{option}" for option in _OPTIONS if option in takes)
        raise UsageError(
            f"optimizer {name!r} takes no train.{min(wrong)}; it takes {fits or 'no such option'}"
        )
    if len(given.get("betas", ())) not in (0, betas):
        raise UsageError(f"optimizer {name!r} takes {betas} train.betas, got {given['betas']}")
    return given
