"""Whether prototypes beat a linear probe at few shots (Bird-MAE, arXiv 2504.12880).

A tiny Bird-MAE is pretrained on synthetic song for every seed; one, five and ten labelled clips of
each species then teach a linear head on the standardised pooled features, or prototypes on the
tokens. Every value is a mean over three draws of the clips.
"""

from pathlib import Path

from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed

import zoo
from zoo.demo.birds import MODEL, write_birds
from zoo.evaluation import Kind

__all__ = ["CLAIM"]

SHOTS, DRAWS, STEPS = (1, 5, 10), 3, 600
KINDS: tuple[Kind, ...] = ("prototypical", "linear")


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy of both probes by the number of shots."""
    shards = write_birds(folder / "shards")

    def measure(seed: int) -> dict[str, float]:
        recipe = {"train.steps": STEPS, "train.save_every": STEPS}
        out = folder / f"run-{seed}"
        run = zoo.pretrain(MODEL, shards["train"], out, recipe, seed=seed, progress=False)
        encoder = run.load()
        return {
            f"{kind}, {shots} a species": zoo.probe(
                encoder, shards["labelled"], shards["test"], kind=kind, shots=shots, seeds=DRAWS
            ).accuracy
            for shots in SHOTS
            for kind in KINDS
        }

    return each_seed(seeds, measure, {"steps": STEPS, "draws": DRAWS})


CLAIM = Claim(
    name="bird_prototypes",
    paper="2504.12880",
    says="Prototypes on frozen tokens beat a linear probe when labels are few.",
    modality="audio",
    data="synthetic bird song of the demo",
    measure="accuracy",
    comparisons=tuple(
        Comparison(ours=f"{KINDS[0]}, {shots} a species", base=f"{KINDS[1]}, {shots} a species")
        for shots in SHOTS
    ),
    seeds=3,
    budget=360,
    trials=trials,
)
