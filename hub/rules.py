"""Foreign state dicts by rules: what a whole foreign key looks like, and where it goes.

`objective:` marks a tensor of a pretraining head, `extra:` one that zoo has no use for, with the
reason; every other place is a name in zoo's encoder.
"""

import re
from dataclasses import dataclass, field

from torch import Tensor

from zoo.errors import WeightsError

__all__ = ["Converted", "Rules", "State", "divide"]

Rules = tuple[tuple[str, str], ...]
State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Converted:
    """A foreign state dict, divided."""

    encoder: State = field(default_factory=dict)
    objective: State = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)  # foreign key -> why it is left out


def divide(state: State, rules: Rules, layout: str) -> tuple[State, State, dict[str, str]]:
    """A foreign state dict as tensors of the encoder, tensors of the objective, and the rest.

    Args:
        state: the foreign tensors.
        rules: the first that fits a key decides.
        layout: its name in errors.

    Raises:
        WeightsError: a tensor that the layout does not have.
    """
    encoder: State = {}
    objective: State = {}
    extra: dict[str, str] = {}
    for key, value in state.items():
        place = _renamed(key, rules)
        if place is None:
            raise WeightsError(f"{key!r} is no tensor of the layout {layout}")
        if place.startswith("extra:"):
            extra[key] = place.removeprefix("extra:")
        elif place.startswith("objective:"):
            objective[place.removeprefix("objective:")] = value
        else:
            encoder[place] = value
    return encoder, objective, extra


def _renamed(key: str, rules: Rules) -> str | None:
    for pattern, place in rules:
        if match := re.fullmatch(pattern, key):
            return match.expand(place)
    return None
