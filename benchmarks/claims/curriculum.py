"""Whether a curriculum needs a rate that stays high, and averaged weights (arXiv 2511.18903).

A stream of digits whose labels are wrong with a probability from 0.9 to 0, known to the sorter: in
random order, or from the worst to the best. The rate decays to zero, or stays constant and the last
six checkpoints are averaged. What the order gains must be larger without the decay.
"""

import copy
import math
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA

from zoo.training.average import exponential_weights

__all__ = ["CLAIM"]

STREAM, BATCH, LR = 12_000, 32, 3e-3
WORST = 0.9  # share of wrong labels
CHECKPOINTS, EVERY, DECAY = 6, 10, 0.2  # averaged; steps between; what the past keeps
CONSTANT, FALLING = "gain of the order, constant and averaged", "gain of the order, decayed"


def trained(x: Tensor, y: Tensor, seed: int, *, decay: bool) -> nn.Module:
    """A small network after one pass over (N, 64) and (N,) in the given order."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), LR)
    saved, steps = [], len(x) // BATCH
    for step in range(steps):
        part = slice(step * BATCH, (step + 1) * BATCH)
        share = 0.5 * (1 + math.cos(math.pi * step / steps)) if decay else 1.0
        optimizer.param_groups[0]["lr"] = LR * share
        optimizer.zero_grad()
        cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        if (steps - 1 - step) % EVERY == 0:
            saved.append(copy.deepcopy(model.state_dict()))
    if decay:
        return model
    last = saved[-CHECKPOINTS:]
    weights = exponential_weights(len(last), DECAY)
    model.load_state_dict(
        {
            name: sum(w * state[name] for w, state in zip(weights, last, strict=True))
            for name in last[0]
        }
    )
    return model


def measure(seed: int) -> dict[str, float]:
    """Held-out accuracy of all four, and what the order gains with either rate."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    train, test = train_test_split(
        np.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=seed
    )
    drawn = rng.choice(train, STREAM)
    wrong = WORST * rng.random(STREAM)
    labels = np.where(
        rng.random(STREAM) < wrong, rng.integers(10, size=STREAM), digits.target[drawn]
    )
    pixels = torch.tensor(digits.data / 16, dtype=torch.float32)
    found: dict[str, float] = {}
    for rate, decay in (("constant and averaged", False), ("decayed", True)):
        accuracies = []
        for order in (np.arange(STREAM), np.argsort(-wrong, kind="stable")):
            x, y = pixels[drawn[order]], torch.from_numpy(labels[order])
            model = trained(x, y, seed, decay=decay)
            with torch.inference_mode():
                best = model(pixels[test]).argmax(dim=1).numpy()
            accuracies.append(float((best == digits.target[test]).mean()))
        found |= {
            f"random, {rate}": accuracies[0],
            f"ascending, {rate}": accuracies[1],
            f"gain of the order, {rate}": accuracies[1] - accuracies[0],
        }
    return found


def trials(seeds: int, folder: Path) -> Trials:
    """Both orders with both rates."""
    return each_seed(seeds, measure, {"stream": STREAM})


CLAIM = Claim(
    name="curriculum",
    paper="2511.18903",
    says="Ascending quality pays with a constant rate and averaged weights, not with a decay.",
    modality="vision",
    data=f"{DATA}, some labels made wrong",
    measure="accuracy, and what the order gains",
    comparisons=(
        Comparison(ours=CONSTANT, base=FALLING),
        Comparison(ours="ascending, constant and averaged", base="random, decayed"),
    ),
    seeds=10,
    budget=60,
    trials=trials,
)
