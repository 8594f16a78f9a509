"""Whether one model serves any subset of sequences (BM-MAE, arXiv 2505.00568).

Synthetic heads: four sequences of 16 x 16 x 16 voxels share smooth tissue and show the core and the
rim of one lesion each in its own way, with noise. One model is pretrained on all four; the controls
are pretrained on nothing but the subset that is there later, for as many steps. Ridge regression
tells the lesion's centre and radius from frozen features, mean and largest over tokens, of 60
labelled volumes. "No worse" is at most 0.05 of R² below, which is worth something only where the
one model is above random weights. So far no way has an R² above 0: these minutes teach too little
to tell, and "not reproduced" is said of the miniature more than of the paper.

Notation: B volumes, S sequences, G voxels along a side.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.vit3d import ViT3D, ViT3DConfig
from zoo.objectives.bm_mae import BMMAE, BMMAEConfig

from zoo.probes.ridge import ridge_probe

__all__ = ["CLAIM"]

SEQUENCES = ("t1", "t1ce", "t2", "flair")
SUBSETS = (("t1",), ("t2", "flair"))
# How each sequence shows tissue, the lesion's core, and its rim.
CONTRAST = ((1.0, -0.6, 0.0), (1.0, -0.4, 1.0), (-0.8, 0.8, 0.4), (0.5, 0.5, 0.8))
SIDE, NOISE = 16, 0.4
COUNTS = {"train": 512, "labelled": 60, "test": 200}
STEPS, BATCH, LR = 300, 16, 2e-3
DECODER = BMMAEConfig(decoder_dim=24, decoder_depth=1, decoder_heads=2)


def heads(count: int, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.float64]]:
    """(B, 4, G, G, G) volumes of mean 0 and deviation 1; (B, 4) centres and radii of lesions."""
    centres, radii = rng.uniform(4, SIDE - 4, (count, 3)), rng.uniform(2, 4, (count, 1))
    coarse = torch.from_numpy(rng.standard_normal((count, 1, 4, 4, 4)).astype(np.float32))
    tissue = interpolate(coarse, (SIDE,) * 3, mode="trilinear")[:, 0].numpy()
    axes = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    away = np.sqrt(((axes[None] - centres[:, :, None, None, None]) ** 2).sum(axis=1))
    core = away < 0.6 * radii[:, :, None, None]
    rim = (away < radii[:, :, None, None]) & ~core
    shown = [a * tissue + b * core + c * rim for a, b, c in CONTRAST]
    x = np.stack(shown, axis=1) + NOISE * rng.standard_normal((count, 4, *(SIDE,) * 3))
    x = (x - x.mean(axis=(2, 3, 4), keepdims=True)) / x.std(axis=(2, 3, 4), keepdims=True)
    return torch.from_numpy(x.astype(np.float32)), np.hstack([centres, radii])


def pretrained(volumes: Tensor, sequences: Sequence[str], seed: int) -> tuple[ViT3D, ViT3D]:
    """An encoder after, and one before, pretraining on (B, S, G, G, G)."""
    pairs = []
    for _ in range(2):
        torch.manual_seed(seed)
        encoder = ViT3D(
            ViT3DConfig(patch_size=4, dim=48, depth=3, heads=4, pool="mean"),
            VolumePreprocessConfig(sequences=tuple(sequences), size=(SIDE,) * 3),
        )
        pairs.append((encoder, BMMAE(DECODER, encoder)))
    (encoder, objective), (start, _) = pairs
    optimizer = torch.optim.AdamW(nn.ModuleList([encoder, objective]).parameters(), LR)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * min(1.0, (step + 1) / 30) * (1 - step / STEPS)
        chosen = torch.randint(len(volumes), (BATCH,), generator=generator)
        samples = [objective.views({"volume": x}, generator) for x in volumes[chosen]]
        batch = {name: torch.stack([one[name] for one in samples]) for name in samples[0]}
        optimizer.zero_grad()
        objective(encoder, batch).total.backward()
        optimizer.step()
    return encoder.eval(), start.eval()


@torch.inference_mode()
def features(encoder: ViT3D, volumes: Tensor, subset: Sequence[str]) -> NDArray[np.float32]:
    """(B, 2 D), mean and largest over tokens, of (B, 4, G, G, G) with only the subset there."""
    chosen = [SEQUENCES.index(name) for name in subset]
    if encoder.sequences == tuple(subset):
        batch = {"volume": volumes[:, chosen]}
    else:
        there = torch.zeros(len(SEQUENCES), dtype=torch.bool)
        there[chosen] = True
        batch = {
            "volume": volumes * there[:, None, None, None],
            "present": there.expand(len(volumes), -1),
        }
    tokens = encoder(batch).tokens
    found: NDArray[np.float32] = torch.cat([tokens.mean(1), tokens.amax(1)], dim=1).numpy()
    return found


def trials(seeds: int, folder: Path) -> Trials:
    """R² of the one model, of those for a subset, and of random weights, for every subset."""

    def measure(seed: int) -> dict[str, float]:
        rng = np.random.default_rng(seed)
        sides = {side: heads(count, rng) for side, count in COUNTS.items()}
        train = sides["train"][0]

        def told(encoder: ViT3D, subset: Sequence[str]) -> float:
            (few, known), (unseen, truth) = sides["labelled"], sides["test"]
            inner, outer = features(encoder, few, subset), features(encoder, unseen, subset)
            groups = np.arange(len(few)) // 6
            return float(ridge_probe(inner, known, outer, truth, groups=groups).mean())

        one, start = pretrained(train, SEQUENCES, seed)
        found = {}
        for subset in SUBSETS:
            chosen = [SEQUENCES.index(name) for name in subset]
            own, _ = pretrained(train[:, chosen], subset, seed)
            for way, encoder in (
                ("one model", one),
                ("its own model", own),
                ("random weights", start),
            ):
                found[f"{way}, {' and '.join(subset)}"] = told(encoder, subset)
        return found

    return each_seed(seeds, measure, {"steps": STEPS, **COUNTS})


CLAIM = Claim(
    name="any_subset",
    paper="2505.00568",
    says="One model for any subset of sequences is no worse than a model for each subset.",
    modality="volume",
    data="synthetic heads with a lesion",
    measure="R² of the lesion's centre and radius",
    comparisons=tuple(
        Comparison(ours=f"one model, {there}", base=f"{base}, {there}", least=least)
        for there in map(" and ".join, SUBSETS)
        for base, least in (("its own model", -0.05), ("random weights", 0.0))
    ),
    seeds=3,
    budget=360,
    trials=trials,
)
