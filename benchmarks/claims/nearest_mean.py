"""Whether means of frozen features are a floor for continual learning (arXiv 2210.04428).

Ten digits come as five tasks of two. The nearest class mean needs one pass and forgets nothing; the
control fine-tunes the same weights with one head of ten classes, task after task.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA, STEPS, Digits, pretrained

__all__ = ["CLAIM"]

TASKS = tuple((first, first + 1) for first in range(0, 10, 2))
EPOCHS, BATCH, LR = 5, 32, 1e-3  # of fine-tuning on each task
MEAN, TUNED = "nearest mean", "fine-tuned in sequence"


def nearest_mean(digits: Digits) -> float:
    """Accuracy after all tasks; features are standardised by the first task's statistics."""
    sides = [digits.encoder.embed(side[0], progress=False) for side in (digits.train, digits.test)]
    labels = digits.train[1]
    first = sides[0][np.isin(labels, TASKS[0])]
    mean, scale = first.mean(axis=0), first.std(axis=0) + 1e-6
    train, test = ((side - mean) / scale for side in sides)
    means = np.stack([train[labels == c].mean(axis=0) for c in range(10)])
    distances = ((test[:, None] - means) ** 2).sum(axis=2)
    return float((distances.argmin(axis=1) == digits.test[1]).mean())


def fine_tuned(digits: Digits, seed: int, tasks: Sequence[Sequence[int]] = TASKS) -> float:
    """Accuracy after all tasks of a copy whose weights all learn."""
    torch.manual_seed(seed)
    encoder = copy.deepcopy(digits.encoder).train()
    model = nn.ModuleList([encoder, nn.Linear(encoder.dim, 10)])
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    preprocess = encoder.preprocess
    train, test = (
        preprocess.collate([preprocess(sample) for sample in side[0]])["image"]
        for side in (digits.train, digits.test)
    )
    labels = torch.from_numpy(digits.train[1])
    for task in tasks:
        rows = torch.isin(labels, torch.tensor(task)).nonzero().flatten()
        for _ in range(EPOCHS):
            for chosen in rows[torch.randperm(len(rows))].split(BATCH):
                logits = model[1](encoder({"image": train[chosen]}).pooled)
                optimizer.zero_grad()
                cross_entropy(logits, labels[chosen]).backward()
                optimizer.step()
    with torch.inference_mode():
        logits = model[1](encoder.eval()({"image": test}).pooled)
    return float((logits.argmax(dim=1).numpy() == digits.test[1]).mean())


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy of both over all ten digits."""

    def measure(seed: int) -> dict[str, float]:
        digits = pretrained(folder, seed)
        return {
            MEAN: nearest_mean(digits),
            TUNED: fine_tuned(digits, seed),
            "fine-tuned on all at once": fine_tuned(digits, seed, [range(10)]),
        }

    return each_seed(seeds, measure, {"steps": STEPS})


CLAIM = Claim(
    name="nearest_mean",
    paper="2210.04428",
    says="The nearest class mean of frozen features is a floor that continual learning must beat.",
    modality="vision",
    data=DATA,
    measure="accuracy over all classes after the last task",
    comparisons=(Comparison(ours=MEAN, base=TUNED),),
    budget=200,
    trials=trials,
)
