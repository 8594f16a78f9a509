"""Foreign state dicts by rules: what a whole foreign key looks like, and where it goes.

`objective:` marks a tensor of a pretraining head, `extra:` one that zoo has no use for, with the
reason; every other place is a name in zoo's encoder. `[1/3]` at a place's end: the second of three
tensors that zoo has in one, along their first axis.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoo.errors import WeightsError

__all__ = ["PIECE", "Converted", "Rules", "State", "divide"]

Rules = tuple[tuple[str, str], ...]
State = dict[str, Tensor]
PIECE = re.compile(r"\[(\d)/(\d)\]$")


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
        WeightsError: a tensor that the layout does not have, or one of several that belong together
            is missing.
    """
    named: State = {}
    pieces: dict[str, dict[str, Tensor]] = defaultdict(dict)
    extra: dict[str, str] = {}
    for key, value in state.items():
        place = _renamed(key, rules)
        if place is None:
            raise WeightsError(f"{key!r} is no tensor of the layout {layout}")
        if place.startswith("extra:"):
            extra[key] = place.removeprefix("extra:")
        elif piece := PIECE.search(place):
            pieces[PIECE.sub(f"[{piece[2]}]", place)][piece[1]] = value
        else:
            named[place] = value
    named |= _joined(pieces, layout)
    start = "objective:"
    objective = {k.removeprefix(start): v for k, v in named.items() if k.startswith(start)}
    return {k: v for k, v in named.items() if not k.startswith(start)}, objective, extra


def _joined(pieces: Mapping[str, Mapping[str, Tensor]], layout: str) -> State:
    """Tensors by the name `place[count]`, in one."""
    out: State = {}
    for name, parts in pieces.items():
        place, _, count = name.removesuffix("]").partition("[")
        if len(parts) < int(count):
            raise WeightsError(f"{place!r} is {count} tensors in the layout {layout}, not all here")
        out[place] = torch.cat([parts[number] for number in sorted(parts)])
    return out


def _renamed(key: str, rules: Rules) -> str | None:
    for pattern, place in rules:
        if match := re.fullmatch(pattern, key):
            return match.expand(place)
    return None
