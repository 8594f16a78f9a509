"""Whether rows without labels help where labels are few (UniTabE, arXiv 2307.09249).

breast_cancer, halves of independent repetitions: one half is trained on without labels, then 10 or
20 of its rows get theirs. A logistic regression on the frozen embedding, against the same encoder
with random weights; every value is a mean over twenty draws of the labelled rows.
"""

from itertools import islice
from pathlib import Path

from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.tables.sklearn_sets import load, splits
from zoo.benchmarks.tables.sklearn_tables import Pretraining, few_labels, fitted

from zoo.tabular.raw import RowFeatures

__all__ = ["CLAIM"]

PRETRAINING, LABELS = Pretraining(), (10, 20)


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy of both by the number of labels; a seed is a repetition of the split."""
    halves = [*islice(splits(load("breast_cancer", None)), 0, None, 2)]

    def measure(seed: int) -> dict[str, float]:
        split = halves[seed]
        table = fitted(split.data.table, split.pool)
        known = table.take(split.pool)
        trained = PRETRAINING.run({"rows": known}, seed)
        kinds = {"pretrained": trained, "random": PRETRAINING.untrained(trained, seed)}
        features = {name: RowFeatures(one, known, raw=False)(table) for name, one in kinds.items()}
        scores = few_labels(split, features)
        return {f"{name} {count}": scores[f"{name} {count}"] for count in LABELS for name in kinds}

    return each_seed(seeds, measure, {"steps": PRETRAINING.steps})


CLAIM = Claim(
    name="tabular_pretraining",
    paper="2307.09249",
    says="Pretraining on rows without labels helps where labels are few.",
    modality="tabular",
    data="scikit-learn's breast_cancer, real",
    measure="accuracy",
    comparisons=tuple(
        Comparison(ours=f"pretrained {count}", base=f"random {count}") for count in LABELS
    ),
    budget=300,
    trials=trials,
)
