"""The state of optimisers as plain tensors, exactly: what safetensors can hold.

Names are `parameter::field`. Some optimisers keep Python numbers in their state, or count in a
parameter group; both are marked in the name, because a tensor in their place computes otherwise.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo.training.groups import Named

__all__ = ["optimizer_tensors", "restore_optimizers"]

_NUMBER = "::number"
_GROUP = "group "  # before what a group counts, stored with its first parameter
# timm's; the others are schedule-free AdamW's
_COUNTERS = ("step", "k", "weight_sum", "lr_max")
_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


def optimizer_tensors(optimizers: Iterable[Optimizer], named: Named) -> dict[str, Tensor]:
    """Everything that the optimisers remember, by `parameter::field`."""
    names = {id(parameter): name for name, parameter in named}
    tensors: dict[str, Tensor] = {}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for field, value in state.items():
                tensors |= _packed(f"{names[id(parameter)]}::{field}", value)
        for group in optimizer.param_groups:
            first = names[id(group["params"][0])]
            for counter in _COUNTERS:
                if counter in group:
                    tensors |= _packed(f"{first}::{_GROUP}{counter}", group[counter])
    return tensors


def restore_optimizers(
    optimizers: Iterable[Optimizer], named: Named, tensors: Mapping[str, Tensor]
) -> None:
    """Puts back what `optimizer_tensors` gave, into fresh optimisers of the same recipe."""
    parameters = dict(named)
    places = {id(p): (o, group) for o, group, p in _members(optimizers)}
    for name, value in tensors.items():
        key = name.removesuffix(_NUMBER)
        parameter_name, _, field = key.partition("::")
        parameter = parameters[parameter_name]
        optimizer, group = places[id(parameter)]
        restored = value.item() if key != name else value.to(parameter.device)
        if field.startswith(_GROUP):
            group[field.removeprefix(_GROUP)] = restored
        else:
            optimizer.state[parameter][field] = restored


def _packed(name: str, value: object) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    return {name + _NUMBER: torch.tensor(value, dtype=_DTYPES[type(value)])}


def _members(
    optimizers: Iterable[Optimizer],
) -> Iterator[tuple[Optimizer, dict[str, object], Tensor]]:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield optimizer, group, parameter
