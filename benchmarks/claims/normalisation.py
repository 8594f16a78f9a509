"""Whether frozen features suffer from another normalisation than in training (arXiv 2305.13456).

The same weights see held-out scans as they were trained to, without standardisation (0 to 1), and
as raw grey values (0 to 255); nearest neighbours (k = 5) judge, whose training features are made in
the same wrong way.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA, STEPS, pretrained

import zoo
from zoo.demo.digits import Data
from zoo.probing import knn_probe

__all__ = ["CLAIM"]

RIGHT, UNIT, RAW = "as in training", "0 to 1", "0 to 255"
# A batch of floating point numbers counts as normalised already.
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    RIGHT: lambda image: image,
    UNIT: lambda image: image.float() / 255,
    RAW: lambda image: image.float(),
}


@torch.inference_mode()
def features(encoder: zoo.Encoder, data: Data, way: Callable[[Tensor], Tensor]) -> Tensor:
    """(N, D) of a split."""
    batch = encoder.preprocess.collate([encoder.preprocess(sample) for sample in data[0]])
    return encoder(batch | {"image": way(batch["image"])}).pooled


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy of every way."""

    def measure(seed: int) -> dict[str, float]:
        digits = pretrained(folder, seed)
        found = {}
        for name, way in WAYS.items():
            train, test = (
                features(digits.encoder, side, way).numpy() for side in (digits.train, digits.test)
            )
            found[name] = knn_probe(train, digits.train[1], test, digits.test[1], k=5).accuracy
        return found

    return each_seed(seeds, measure, {"steps": STEPS})


CLAIM = Claim(
    name="normalisation",
    paper="2305.13456",
    says="Another normalisation than in training costs accuracy.",
    modality="vision",
    data=DATA,
    measure="accuracy of 5 nearest neighbours",
    comparisons=tuple(Comparison(ours=RIGHT, base=base) for base in (UNIT, RAW)),
    budget=180,
    trials=trials,
)
