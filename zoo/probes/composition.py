"""What crops of volumes are made of, told from frozen features, as VoCo's miniature asks.

A crop from the middle of a body looks much like its neighbours; who tells the organs in it has
learned where it lies.

Notation: N crops, S side of a crop, K structures, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.modalities.contracts import Encoder
from zoo.modalities.volume.transforms import pad_to
from zoo.probes.ridge import ridge_probe
from zoo.probes.volumes import LabelledVolumes

__all__ = ["LabelledCrops", "composition", "draw_crops", "pooled"]

Describe = Callable[[Tensor], NDArray[np.float32]]  # (N, C, S, S, S) -> (N, D)


@dataclass(frozen=True, slots=True)
class LabelledCrops:
    """Crops of several bodies."""

    volumes: Tensor  # (N, C, S, S, S)
    shares: NDArray[np.float64]  # (N, K) of a crop that each structure fills
    bodies: NDArray[np.int64]  # (N,) whose


def draw_crops(bodies: LabelledVolumes, *, size: int, count: int, seed: int) -> LabelledCrops:
    """`count` crops of size³ voxels from anywhere in each body; structures exclude one another."""
    rng, volumes, shares = np.random.default_rng(seed), [], []
    structures = len(bodies.structures)
    for index in range(len(bodies)):
        volume, numbers = (pad_to(part, (size,) * 3) for part in bodies.read(index))
        for _ in range(count):
            starts = rng.integers([length - size + 1 for length in volume.shape[1:]])
            box = tuple(slice(start, start + size) for start in starts.tolist())
            volumes.append(volume[:, *box])
            inside = numbers[:, *box].flatten().bincount(minlength=structures + 1)
            shares.append(inside[1:].numpy() / size**3)
    groups = np.arange(len(bodies)).repeat(count)
    return LabelledCrops(torch.stack(volumes), np.stack(shares), groups)


def composition(describe: Describe, few: LabelledCrops, test: LabelledCrops) -> float:
    """R² of telling what unseen crops are made of, mean over structures.

    Args:
        describe: features of crops.
        few: to learn from, by ridge regression.
        test: of other bodies.
    """
    scores = ridge_probe(
        describe(few.volumes),
        few.shares,
        describe(test.volumes),
        test.shares,
        groups=few.bodies,
    )
    return float(np.nanmean(scores))


def pooled(encoder: Encoder) -> Describe:
    """The encoder's `pooled` features."""

    @torch.inference_mode()
    def describe(crops: Tensor) -> NDArray[np.float32]:
        features: NDArray[np.float32] = encoder({"volume": crops}).pooled.numpy()
        return features

    return describe
