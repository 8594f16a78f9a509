"""Training heads that look at tokens: the training samples go through the encoder once.

Notation: N samples, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.probes.finetune import HeadKind, build_head
from zoo.probes.frozen import token_map
from zoo.probes.heads import HeadRecipe, seeded, train_head
from zoo.probes.samples import Labelled
from zoo.probes.score import Labels, class_count

__all__ = ["targets_of", "train_on_tokens"]

_READ = 64  # samples that go through the encoder together


def train_on_tokens(
    kind: HeadKind,
    samples: Labelled,
    labels: Labels,
    chosen: Sequence[NDArray[np.int64]],
    seeds: Sequence[int],
    recipe: HeadRecipe,
) -> list[nn.Module]:
    """A trained head for each seed, on the samples that are chosen for it.

    Args:
        kind: of head.
        samples: whose encoder is frozen and in eval mode.
        labels: (N,) or (N, K) of all samples.
        chosen: indices of the samples of each seed.
        seeds: of the heads' weights and the order of the samples.
        recipe: how to train.
    """
    device = samples.device
    used = np.unique(np.concatenate(chosen))
    maps, tokens = None, None
    with torch.no_grad():
        for number, (batch, _) in enumerate(samples.batches(used.tolist(), _READ)):
            maps = token_map(samples.encoder, batch)
            if tokens is None:  # once, so that they never exist twice
                tokens = torch.empty(len(used), *maps.x.shape[1:], dtype=torch.float16)
            tokens[number * _READ : number * _READ + len(maps.x)] = maps.x
    assert maps is not None
    assert tokens is not None
    models = []
    for seed, indices in zip(seeds, chosen, strict=True):
        rows = torch.from_numpy(np.searchsorted(used, indices))
        mine = tokens if len(rows) == len(used) else tokens[rows]
        with seeded(seed, device):
            head = build_head(kind, samples.encoder, class_count(labels), maps).to(device)
            models.append(train_head(head, mine, targets_of(labels[indices]), recipe, seed=seed))
    return models


def targets_of(labels: Labels) -> Tensor:
    """What a loss takes: whole numbers (N,), or floating zeros and ones (N, K)."""
    targets = torch.from_numpy(labels)
    return targets if labels.ndim == 1 else targets.float()
