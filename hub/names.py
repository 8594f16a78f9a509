r"""Pairs of names, theirs and ours, that serve in both directions.

In a pair `{}` is a number and `*` one last word: `("layers.{}.Wqkv.*", "blocks.{}.attn.qkv.*")`.
Our side may begin with `objective:` and end with `[1/3]`, as in zoo.hub.rules.
"""

import re
from collections.abc import Mapping

import torch
from zoo.hub.rules import PIECE, Rules, State

from zoo.errors import WeightsError

__all__ = ["Pairs", "check_tied", "rename_back", "rules_of"]

Pairs = tuple[tuple[str, str], ...]


def rules_of(pairs: Pairs, prefix: str = "") -> Rules:
    """Rules from their names to ours; `prefix` is a pattern that may stand in front of theirs."""
    return tuple((prefix + _pattern(theirs), _filled(ours)) for theirs, ours in pairs)


def rename_back(encoder: State, objective: Mapping[str, torch.Tensor], pairs: Pairs) -> State:
    """Our tensors under their names.

    Raises:
        WeightsError: a tensor that their layout has no name for.
    """
    ours = dict(encoder) | {f"objective:{name}": value for name, value in objective.items()}
    out: State = {}
    for key, value in ours.items():
        fitting = [
            (match.expand(_filled(theirs)), PIECE.search(name))
            for theirs, name in pairs
            if (match := re.fullmatch(_pattern(PIECE.sub("", name)), key))
        ]
        if not fitting:
            raise WeightsError(f"{key!r} has no place in that layout")
        for theirs, piece in fitting:
            # Files do not take several names of one memory.
            out[theirs] = value.chunk(int(piece[2]))[int(piece[1])].clone() if piece else value
    return out


def check_tied(state: State, names: tuple[str, ...], to: str) -> None:
    """Raises WeightsError unless whichever of `names` a file has equal the tensor `to`."""
    for name in names:
        if name in state and to in state and not torch.equal(state[name], state[to]):
            raise WeightsError(f"{name!r} differs from {to!r}, which zoo ties it to")


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{\}", r"(\d+)").replace(r"\*", r"(\w+)")


def _filled(name: str) -> str:
    """A template for `match.expand`."""
    numbers = iter(range(1, 10))
    return re.sub(r"\{\}|\*", lambda _: f"\\{next(numbers)}", name)
