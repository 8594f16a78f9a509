"""Whether 90 % of an X-ray may be hidden (medical MAE, arXiv 2210.12843).

Synthetic chest radiographs of 48 x 48 pixels, patches of 6: lungs, heart, spine and ribs of every
patient's own size and place, with eight low-contrast findings. The card's small model in miniature
is pretrained with 90 % and with 75 % of the patches hidden, for equal steps; a linear layer on
frozen features of 300 labelled radiographs tells the findings of unseen ones. "No worse" is at most
one point of AUROC below. Random weights are shown beside, and have to be beaten.

Notation: N radiographs, S side, K findings.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.loop import train_mae
from zoo.objectives.mae import MAE
from zoo.registry.build import build_objective
from zoo.registry.recipe import TrainRecipe

import zoo

__all__ = ["CLAIM"]

MODEL = "medical-mae-small"
RATIOS, STEPS = (0.9, 0.75), 300
COUNTS = {"train": 1500, "labelled": 300, "test": 600}
SIDE, FINDINGS, FREQUENCY, NOISE = 48, 8, 0.3, 0.04
SIZES: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 6,
    "dim": 64,
    "depth": 3,
    "heads": 4,
    "pool": "mean",
}
DECODER = {"decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 4}
RECIPE = TrainRecipe(batch_size=32, steps=STEPS, lr=5e-3, warmup=30, optimizer="muon")
Labelled = tuple[Tensor, NDArray[np.int64]]
Image = NDArray[np.float64]


def radiograph(rng: np.random.Generator, findings: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(S, S) grey values of a chest with some of the K findings."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    (dx, dy), size = rng.normal(0, 0.04, 2), rng.normal(1, 0.05)
    x, y = (x - dx) / size, (y - dy) / size

    def blob(cx: float, cy: float, rx: float, ry: float, sharp: float = 6) -> Image:
        """1 within an ellipse, 0 outside, with a soft edge."""
        away = np.hypot((x - cx) / rx, (y - cy) / ry)
        return 1 / (1 + np.exp(sharp * (away - 1) * 3))

    heart, effusion, air, nodule, patchy, wide, hidden, line = findings
    tall = 0.62 + 0.1 * wide
    lungs = blob(-0.42, -0.05, 0.3, tall) + blob(0.42, -0.05, 0.3, tall)
    ribs = np.sin(14 * (y - 0.5 * x**2) + rng.uniform(0, 6)) * 0.05
    image = 0.6 - 0.35 * lungs + ribs * lungs
    image += 0.35 * blob(0.12, 0.3, 0.28 + 0.1 * heart, 0.3) + 0.15 * blob(0, 0, 0.1, 2)
    left = rng.choice((-1, 1))
    image += 0.3 * effusion * blob(0.45 * left, 0.6, 0.3, 0.2)
    image -= 0.15 * air * blob(-0.42 * left, -0.5, 0.2, 0.15)
    image += 0.25 * nodule * blob(0.42 * left, rng.uniform(-0.4, 0.2), 0.08, 0.08)
    spots = rng.normal(0, 0.15, (SIDE // 3, SIDE // 3)).repeat(3, 0).repeat(3, 1)
    image += patchy * spots * blob(-0.42 * left, rng.uniform(-0.3, 0.3), 0.25, 0.25)
    image += 0.15 * hidden * blob(0.05, -0.45, 0.25, 0.2)
    image += 0.2 * line * (np.abs(x - 0.4 * y - 0.25) < 0.03) * (y < 0.2)
    image = image * rng.uniform(0.85, 1.15) + rng.normal(0, NOISE, image.shape)
    return (image.clip(0, 1) * 255).astype(np.uint8)


def radiographs(count: int, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.int64]]:
    """(N, 3, S, S) uint8, and (N, K) findings, ones and zeros."""
    findings = rng.random((count, FINDINGS)) < FREQUENCY
    images = torch.from_numpy(np.stack([radiograph(rng, one) for one in findings]))
    return images.unsqueeze(1).expand(-1, 3, -1, -1), findings.astype(np.int64)


@torch.inference_mode()
def auroc(encoder: zoo.Encoder, seen: Labelled, unseen: Labelled) -> float:
    """Mean over findings, of a logistic regression each on standardised features."""
    (few, known), (test, truth) = seen, unseen
    inner, outer = (encoder({"image": images}).pooled.numpy() for images in (few, test))
    model = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=0.1)))
    return float(roc_auc_score(truth, model.fit(inner, known).predict_proba(outer)))


def trials(seeds: int, folder: Path) -> Trials:
    """AUROC and seconds of both ratios; which comes first changes from seed to seed."""
    card = zoo.card(MODEL).recipe
    assert card is not None

    def measure(seed: int) -> dict[str, float]:
        rng, found = np.random.default_rng(seed), {}
        train, few, test = (radiographs(count, rng) for count in COUNTS.values())
        for ratio in RATIOS if seed % 2 else RATIOS[::-1]:
            encoder = zoo.create(MODEL, seed=seed, **SIZES)
            found["random weights"] = auroc(encoder.eval(), few, test)
            torch.manual_seed(seed)
            options = {**card.objective, **DECODER, "mask_ratio": ratio}
            objective = build_objective(options, encoder)
            assert isinstance(objective, MAE)
            began = time.process_time()
            train_mae(encoder, objective, train[0], replace(RECIPE, steps=STEPS), seed=seed)
            found[f"{ratio:.0%}, seconds"] = time.process_time() - began
            found[f"{ratio:.0%}"] = auroc(encoder, few, test)
        return found

    return each_seed(seeds, measure, {"steps": STEPS, **COUNTS})


CLAIM = Claim(
    name="medical_mae",
    paper="2210.12843",
    says="Hiding 90 % of an X-ray's patches costs less than hiding 75 %, and is no worse.",
    modality="vision",
    data="synthetic chest radiographs",
    measure="AUROC of eight findings; seconds of the processor",
    comparisons=(
        Comparison(ours="90%", base="75%", least=-0.01),
        Comparison(ours="90%, seconds", base="75%, seconds", better="lower"),
        Comparison(ours="90%", base="random weights"),
    ),
    budget=240,
    trials=trials,
)
