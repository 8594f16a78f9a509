"""Whether telling where crops lie teaches what is in them (VoCo, arXiv 2410.09890).

120 unlabelled torsos of the demo (48 x 48 x 16 voxels, synthetic, eight organs, intensities shifted
from scan to scan), a 3 x 3 grid of base crops, a small convolution network. What random crops are
made of is told by ridge regression from frozen features of six labelled bodies, for 60 unseen ones.
The controls: the same crops and losses with shuffled places, and the weights of the start. Means of
voxels are shown beside.
"""

from pathlib import Path

from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed

import zoo
from zoo.demo.shuffled_voco import shuffled
from zoo.demo.torso_trials import VOXELS, torso_crops, voxel_means
from zoo.demo.torsos import write_torsos
from zoo.pretraining import untrained
from zoo.probes.composition import composition, pooled

__all__ = ["CLAIM"]

MODEL, FEW, STEPS = "torsos-voco", 6, 300
BODIES = {"train": 120, "test": 60}
VOCO, SHUFFLED, RANDOM = "VoCo", "VoCo, shuffled places", "random weights"


def trials(seeds: int, folder: Path) -> Trials:
    """VoCo against its losses with shuffled places, and against random weights."""
    ways: dict[str, dict[str, object]] = {
        VOCO: {},
        SHUFFLED: shuffled(MODEL),
        "VoCo, dropout 0.2": {"objective.drop": 0.2},
    }
    shards = write_torsos(folder / "shards", BODIES | {"labelled": FEW * seeds})
    anything = zoo.create(MODEL)
    test = torso_crops(anything, shards["test"], seed=0)

    def measure(seed: int) -> dict[str, float]:
        chosen = range(FEW * seed, FEW * (seed + 1))
        few = torso_crops(anything, shards["labelled"], seed=1 + seed, chosen=chosen)
        found = {}
        for number, (way, own) in enumerate(ways.items()):
            out, recipe = folder / f"run-{seed}-{number}", {"train.steps": STEPS, **own}
            run = zoo.pretrain(MODEL, shards["train"], out, recipe, seed=seed, progress=False)
            found[way] = composition(pooled(run.load()), few, test)
        found[RANDOM] = composition(pooled(untrained(run).eval()), few, test)
        return found | {VOXELS: composition(voxel_means, few, test)}

    return each_seed(seeds, measure, {"steps": STEPS, **BODIES, "labelled": FEW})


CLAIM = Claim(
    name="voco",
    paper="2410.09890",
    says="Telling where a crop lies teaches what is in it.",
    modality="volume",
    data="synthetic torsos of the demo",
    measure="R² of what crops are made of",
    comparisons=tuple(Comparison(ours=VOCO, base=base) for base in (SHUFFLED, RANDOM)),
    budget=180,
    trials=trials,
)
