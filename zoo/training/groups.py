"""Parameter groups: what decays, which matrices are hidden, and layer-wise learning rates.

Names and shapes decide, because that is all that sharding leaves of a model; a test holds them
against the kinds of modules for every pair of the catalogue.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

__all__ = ["Group", "Named", "decays", "is_hidden", "layer_scales", "parameter_groups"]

Named = Iterable[tuple[str, nn.Parameter]]
Group = dict[str, object]

# What stands for a place or a symbol. A patch embedding is a projection and does not.
_TABLE = re.compile(
    r"(\w*_)?(pos_emb(ed)?|rel_pos\w*|tokens?|(?<!patch_)embeddings?|table|types|positions?"
    r"|relative|codevectors)"
)
_BLOCK = re.compile(r"(.*?\w*blocks\.\d+)\.")
_NORM = re.compile(r"(^|\.)norm\.")
_HEADS = "objective."  # of a pair: its blocks are no layers of the encoder


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not to norms, biases, embeddings, position tables, tokens."""
    if parameter.ndim <= 1 or name.endswith("bias"):
        return False
    is_vector = parameter.ndim > 2 and parameter.numel() == parameter.shape[-1]  # (1, 1, D)
    return not is_vector and not _is_table(name)


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether it is a matrix between hidden layers, which Muon is for.

    Patch projections, heads and tables are two-dimensional too, and Muon is wrong for them.
    """
    return parameter.ndim == 2 and bool(_BLOCK.match(name)) and not _is_table(name)


def layer_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """Learning rates relative to the head's: decay ** (layers - i), as timm counts (2106.08254).

    Layer 0 is all that comes before the first block, what lies between two blocks (a merging of
    patches) goes with the next one, the last block takes the final norm along, and heads,
    `fc_norm` and the objective are above all blocks.

    Args:
        names: of all parameters, in the model's order.
        decay: from each layer to the one below.
    """
    names = list(names)
    blocks: dict[str, int] = {}
    layers: dict[str, int] = {}
    behind: list[str] = []  # the last block so far
    for name in names:
        if name.startswith(_HEADS):
            continue
        if found := _BLOCK.match(name):
            layers[name] = blocks.setdefault(found[1], len(blocks) + 1)
            layers |= dict.fromkeys(behind, layers[name])
            behind.clear()
        elif not blocks:
            layers[name] = 0
        else:
            behind.append(name)
    layers |= {name: len(blocks) for name in behind if _NORM.search(name)}
    top = len(blocks) + 1
    return {name: decay ** (top - layers.get(name, top)) for name in names}


def parameter_groups(
    named: Named, weight_decay: float, scales: Mapping[str, float] | None = None
) -> list[Group]:
    """Parameters with the same decay and the same `lr_scale`, which the loop multiplies."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        scale = 1.0 if scales is None else scales[name]
        groups.setdefault((decays(name, parameter), scale), []).append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay if decay else 0.0, "lr_scale": scale}
        for (decay, scale), params in groups.items()
    ]


def _is_table(name: str) -> bool:
    return bool(_TABLE.fullmatch(name.removesuffix(".weight").rpartition(".")[2]))
