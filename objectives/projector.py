"""The projectors of view-based objectives: linear layers with batch norms and ReLUs between."""

from itertools import pairwise

from torch import nn
from zoo.objectives.batch_norm import BatchNorm

__all__ = ["projector"]


def projector(*widths: int) -> nn.Sequential:
    """Linear layers from each width to the next; all but the last with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), BatchNorm(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2])
