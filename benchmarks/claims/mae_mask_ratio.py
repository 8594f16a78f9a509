"""Whether hiding most of an image costs less and teaches no less (MAE, arXiv 2111.06377).

75 % against 25 % of the patches hidden, at equal steps, judged by a linear probe with all labels. A
scan has sixteen patches where MAE's images have 196: it is far less redundant. "No worse" is at
most one point of accuracy below.
"""

import time
from pathlib import Path

from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA, Digits, pretrained

from zoo.probing import linear_probe

__all__ = ["CLAIM"]

RATIOS = (0.75, 0.25)


def accuracy(found: Digits) -> float:
    """Of a linear probe with all training labels."""
    sides = [found.encoder.embed(side[0], progress=False) for side in (found.train, found.test)]
    return linear_probe(sides[0], found.train[1], sides[1], found.test[1]).accuracy


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy and seconds of both ratios; which comes first changes from seed to seed."""

    def measure(seed: int) -> dict[str, float]:
        found = {}
        for ratio in RATIOS if seed % 2 else RATIOS[::-1]:
            began = time.process_time()
            digits = pretrained(folder, seed, {"objective.mask_ratio": ratio})
            found[f"{ratio:.0%}, seconds"] = time.process_time() - began
            found[f"{ratio:.0%}"] = accuracy(digits)
        return found

    return each_seed(seeds, measure, {})


CLAIM = Claim(
    name="mae_mask_ratio",
    paper="2111.06377",
    says="Hiding 75 % of the patches costs less than hiding 25 %, and is no worse.",
    modality="vision",
    data=DATA,
    measure="accuracy of a linear probe; seconds of the processor",
    comparisons=(
        Comparison(ours="75%", base="25%", least=-0.01),
        Comparison(ours="75%, seconds", base="25%, seconds", better="lower"),
    ),
    budget=300,
    trials=trials,
)
