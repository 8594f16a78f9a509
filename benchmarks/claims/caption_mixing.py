"""Whether rewritten captions help beside noisy ones (VeCLIP, arXiv 2310.07699).

Two small towers learn to match scans of digits with captions by InfoNCE (arXiv 2103.00020). Alt
texts name a wrong digit in 70 of 100 cases; rewritten captions are right. Mixed draws either with
probability 1/2 in every step. Zero-shot accuracy on held-out scans judges; the paper's claim is
about mixed against alt texts only.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA

__all__ = ["CLAIM"]

STEPS, BATCH, LR, DIM = 400, 128, 3e-3, 64
WRONG, TEMPERATURE = 0.7, 0.1
SHARES = {"mixed": 0.5, "alt texts": 0.0, "rewritten captions": 1.0}  # of the rewritten ones


def zero_shot(
    sides: tuple[Tensor, Tensor], alt: Tensor, truth: tuple[Tensor, Tensor], share: float, seed: int
) -> float:
    """Held-out accuracy after training with that share of rewritten captions.

    Args:
        sides: pixels (N, 64) and (M, 64).
        alt: (N,) digits that the alt texts name.
        truth: (N,) and (M,) digits.
        share: of right captions.
        seed: of weights and batches.
    """
    torch.manual_seed(seed)
    images = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, DIM))
    texts = nn.Embedding(10, DIM)
    optimizer = torch.optim.AdamW([*images.parameters(), *texts.parameters()], LR)
    for _ in range(STEPS):
        chosen = torch.randint(len(alt), (BATCH,))
        right = torch.rand(BATCH) < share
        captions = torch.where(right, truth[0][chosen], alt[chosen])
        left = normalize(images(sides[0][chosen]), dim=1)
        logits = left @ normalize(texts(captions), dim=1).T / TEMPERATURE
        own = torch.arange(BATCH)
        optimizer.zero_grad()
        (cross_entropy(logits, own) + cross_entropy(logits.T, own)).backward()
        optimizer.step()
    with torch.inference_mode():
        scores = normalize(images(sides[1]), dim=1) @ normalize(texts.weight, dim=1).T
    return float((scores.argmax(dim=1) == truth[1]).float().mean())


def measure(seed: int) -> dict[str, float]:
    """Accuracy of every mixture."""
    digits = load_digits()
    train, test = train_test_split(
        torch.arange(len(digits.target)), test_size=0.2, stratify=digits.target, random_state=seed
    )
    pixels = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    generator = torch.Generator().manual_seed(seed)
    others = (labels[train] + torch.randint(1, 10, train.shape, generator=generator)) % 10
    noisy = torch.rand(len(train), generator=generator) < WRONG
    alt = torch.where(noisy, others, labels[train])
    sides, truth = (pixels[train], pixels[test]), (labels[train], labels[test])
    return {name: zero_shot(sides, alt, truth, share, seed) for name, share in SHARES.items()}


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy of every mixture."""
    return each_seed(seeds, measure, {"steps": STEPS})


CLAIM = Claim(
    name="caption_mixing",
    paper="2310.07699",
    says="Mixing rewritten captions with alt texts beats alt texts alone.",
    modality="vision",
    data=f"{DATA}, with made-up captions",
    measure="zero-shot accuracy",
    comparisons=(Comparison(ours="mixed", base="alt texts"),),
    budget=60,
    trials=trials,
)
