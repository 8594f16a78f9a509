"""The projectors of objectives that compare samples: linear layers with ReLUs between."""

from itertools import pairwise

from torch import nn
from zoo.objectives.batch_norm import BatchNorm

__all__ = ["plain_projector", "projector"]


def projector(*widths: int) -> nn.Sequential:
    """Linear layers from each width to the next; all but the last with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), BatchNorm(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-2])


def plain_projector(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two layers without batch norm, so that a sample's features do not depend on its batch."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
