"""What encoders of torsos are worth: what crops are made of, and organs, from few labelled bodies.

Notation: N crops, K organs.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

import zoo
from zoo.data.shards import ShardSet
from zoo.demo.torsos import ORGANS
from zoo.modalities.volume.transforms import pad_to
from zoo.pretraining import untrained
from zoo.probes.ridge import ridge_probe
from zoo.probes.segmentation import SegmentationRecipe, measure_segmenter, train_segmenter
from zoo.probes.volumes import LabelledVolumes
from zoo.runs import Run

__all__ = ["CROP", "CROPS", "FEW", "STRUCTURES", "VOXELS", "Scores", "run_trials"]

STRUCTURES = {organ.name: (number,) for number, organ in enumerate(ORGANS, start=1)}
FEW = 5  # labelled bodies of each seed
CROP, CROPS = 16, 20  # voxels of a crop's side, crops of a body
VOXELS = "voxels, means of 4³"

# Of every seed: R², Dice behind a frozen encoder and a fine-tuned one (NaN where nobody asked).
Scores = Sequence[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class _Bodies:
    """Crops of several bodies."""

    volumes: Tensor  # (N, 1, CROP, CROP, CROP)
    shares: NDArray[np.float64]  # (N, K) of a crop that each organ fills
    groups: NDArray[np.int64]  # (N,) whose


def run_trials(
    runs: Mapping[str, Sequence[Run]],
    shards: Mapping[str, Path],
    recipe: SegmentationRecipe,
    *,
    random: Mapping[str, str],
    segmented: Collection[str],
) -> tuple[Mapping[str, Scores], nn.Module]:
    """Scores of every seed, by what the weights come from.

    Args:
        runs: of every seed, by name.
        shards: `labelled` and `test`.
        recipe: of the segmentation.
        random: name -> the runs that began with these weights.
        segmented: names of those that are segmented with.

    Returns:
        The scores, and the fine-tuned network of the first run's first seed.
    """
    first = next(iter(runs))
    anything = runs[first][0].load()
    shown: nn.Module | None = None
    test = _crops(LabelledVolumes(anything, shards["test"], STRUCTURES), seed=0)
    trials: dict[str, list[tuple[float, ...]]] = {VOXELS: []}
    seeds = range(len(runs[first]))
    for seed in track(seeds, description="probing", console=Console(stderr=True), transient=True):
        draw = np.random.default_rng((1, seed))
        chosen = draw.choice(len(ShardSet(shards["labelled"])), FEW, replace=False).tolist()
        few = _crops(
            LabelledVolumes(anything, shards["labelled"], STRUCTURES, chosen=chosen), seed=1 + seed
        )
        trials[VOXELS].append((_composition(_means, few, test), float("nan"), float("nan")))
        encoders = {name: untrained(runs[kind][seed]).eval() for name, kind in random.items()}
        encoders |= {name: several[seed].load() for name, several in runs.items()}
        for name, encoder in encoders.items():
            dice = [float("nan"), float("nan")]
            if name in segmented:
                bodies = LabelledVolumes(encoder, shards["labelled"], STRUCTURES, chosen=chosen)
                unseen = LabelledVolumes(encoder, shards["test"], STRUCTURES)
                for place, frozen in enumerate((True, False)):
                    own = replace(recipe, frozen=frozen)
                    network = train_segmenter(bodies, own, seed=seed)
                    dice[place] = measure_segmenter(network, unseen, own).mean
                shown = network if shown is None and name == first else shown
            found = _composition(partial(_pooled, encoder), few, test)
            trials.setdefault(name, []).append((found, *dice))
    assert shown is not None
    return trials, shown


def _crops(bodies: LabelledVolumes, *, seed: int) -> _Bodies:
    """CROPS crops from anywhere in each body."""
    rng, volumes, shares = np.random.default_rng(seed), [], []
    for index in range(len(bodies)):
        volume, organs = (pad_to(part, (CROP,) * 3) for part in bodies.read(index))
        for _ in range(CROPS):
            starts = rng.integers([size - CROP + 1 for size in volume.shape[1:]])
            box = tuple(slice(start, start + CROP) for start in starts.tolist())
            volumes.append(volume[:, *box])
            inside = organs[:, *box].flatten().bincount(minlength=len(ORGANS) + 1)
            shares.append(inside[1:].numpy() / CROP**3)
    groups = np.arange(len(bodies)).repeat(CROPS)
    return _Bodies(torch.stack(volumes), np.stack(shares), groups)


def _composition(
    features: Callable[[Tensor], NDArray[np.float32]], few: _Bodies, test: _Bodies
) -> float:
    """R² of telling what test crops are made of, mean over organs."""
    return float(
        np.nanmean(
            ridge_probe(
                features(few.volumes),
                few.shares,
                features(test.volumes),
                test.shares,
                groups=few.groups,
            )
        )
    )


def _means(crops: Tensor) -> NDArray[np.float32]:
    """What a crop looks like from afar."""
    means: NDArray[np.float32] = avg_pool3d(crops, 4).flatten(1).numpy()
    return means


@torch.inference_mode()
def _pooled(encoder: zoo.Encoder, crops: Tensor) -> NDArray[np.float32]:
    features: NDArray[np.float32] = encoder({"volume": crops}).pooled.numpy()
    return features
