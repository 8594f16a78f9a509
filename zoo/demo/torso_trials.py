"""What encoders of torsos are worth: what crops are made of, and organs, from few labelled bodies.

Notation: N crops, K organs.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

import zoo
from zoo.data.shards import ShardSet
from zoo.demo.torsos import ORGANS
from zoo.pretraining import untrained
from zoo.probes.composition import LabelledCrops, composition, draw_crops, pooled
from zoo.probes.segmentation import SegmentationRecipe, measure_segmenter, train_segmenter
from zoo.probes.volumes import LabelledVolumes
from zoo.runs import Run

__all__ = [
    "CROP",
    "CROPS",
    "FEW",
    "STRUCTURES",
    "VOXELS",
    "Scores",
    "run_trials",
    "torso_crops",
    "voxel_means",
]

STRUCTURES = {organ.name: (number,) for number, organ in enumerate(ORGANS, start=1)}
FEW = 5  # labelled bodies of each seed
CROP, CROPS = 16, 20  # voxels of a crop's side, crops of a body
VOXELS = "voxels, means of 4³"

# Of every seed: R², and Dice of the fine-tuned network (NaN where nobody asked).
Scores = Sequence[tuple[float, float]]


def torso_crops(
    encoder: zoo.Encoder, shards: Path, *, seed: int, chosen: Sequence[int] | None = None
) -> LabelledCrops:
    """CROPS crops of every labelled torso, or of chosen ones, as the encoder wants them."""
    bodies = LabelledVolumes(encoder, shards, STRUCTURES, chosen=chosen)
    return draw_crops(bodies, size=CROP, count=CROPS, seed=seed)


def voxel_means(crops: Tensor) -> NDArray[np.float32]:
    """What a crop looks like from afar: (N, C, CROP, CROP, CROP) -> (N, C * (CROP / 4)³)."""
    means: NDArray[np.float32] = avg_pool3d(crops, 4).flatten(1).numpy()
    return means


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
    test = torso_crops(anything, shards["test"], seed=0)
    trials: dict[str, list[tuple[float, float]]] = {VOXELS: []}
    seeds = range(len(runs[first]))
    for seed in track(seeds, description="probing", console=Console(stderr=True), transient=True):
        draw = np.random.default_rng((1, seed))
        chosen = draw.choice(len(ShardSet(shards["labelled"])), FEW, replace=False).tolist()
        few = torso_crops(anything, shards["labelled"], seed=1 + seed, chosen=chosen)
        trials[VOXELS].append((composition(voxel_means, few, test), float("nan")))
        encoders = {name: untrained(runs[kind][seed]).eval() for name, kind in random.items()}
        encoders |= {name: several[seed].load() for name, several in runs.items()}
        for name, encoder in encoders.items():
            dice = float("nan")
            if name in segmented:
                bodies = LabelledVolumes(encoder, shards["labelled"], STRUCTURES, chosen=chosen)
                unseen = LabelledVolumes(encoder, shards["test"], STRUCTURES)
                network = train_segmenter(bodies, recipe, seed=seed)
                dice = measure_segmenter(network, unseen, recipe).mean
                shown = network if shown is None and name == first else shown
            found = composition(pooled(encoder), few, test)
            trials.setdefault(name, []).append((found, dice))
    assert shown is not None
    return trials, shown
