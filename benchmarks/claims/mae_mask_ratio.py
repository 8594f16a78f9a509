"""Whether hiding most of an image costs less and teaches no less (MAE, arXiv 2111.06377).

75 % against 25 % of the patches hidden, at equal steps, judged by nearest neighbours: a linear
probe with all labels finds as much in random weights, which are shown beside. A scan has sixteen
patches where MAE's images have 196, and is far less redundant. "No worse" is at most one point of
accuracy below.
"""

import time
from pathlib import Path

from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA, STEPS, Digits, pretrained, shards_of

import zoo
from zoo.probing import knn_probe

__all__ = ["CLAIM"]

RATIOS = (0.75, 0.25)


def accuracy(encoder: zoo.Encoder, digits: Digits) -> float:
    """Of 20 nearest neighbours."""
    train, test = (encoder.embed(side[0], progress=False) for side in (digits.train, digits.test))
    return knn_probe(train, digits.train[1], test, digits.test[1], k=20).accuracy


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy and seconds of both ratios; which comes first changes from seed to seed."""
    pretrained(folder, 0, {"train.steps": 2, "train.save_every": 2})  # a first run costs more

    def measure(seed: int) -> dict[str, float]:
        found = {}
        shards_of(folder, seed)
        for ratio in RATIOS if seed % 2 else RATIOS[::-1]:
            began = time.process_time()
            digits = pretrained(folder, seed, {"objective.mask_ratio": ratio})
            found[f"{ratio:.0%}, seconds"] = time.process_time() - began
            found[f"{ratio:.0%}"] = accuracy(digits.encoder, digits)
        return found | {"random weights": accuracy(digits.random, digits)}

    return each_seed(seeds, measure, {"steps": STEPS})


CLAIM = Claim(
    name="mae_mask_ratio",
    paper="2111.06377",
    says="Hiding 75 % of the patches costs less than hiding 25 %, and is no worse.",
    modality="vision",
    data=DATA,
    measure="accuracy of 20 nearest neighbours; seconds of the processor",
    comparisons=(
        Comparison(ours="75%", base="25%", least=-0.01),
        Comparison(ours="75%, seconds", base="25%, seconds", better="lower"),
    ),
    budget=300,
    trials=trials,
)
