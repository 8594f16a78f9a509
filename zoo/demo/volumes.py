"""3D medical: VoCo (arXiv 2410.09890) and MAE on synthetic torsos, told from few labelled ones.

What crops are made of is told from frozen features, as in the miniature of VoCo's claim; the
controls are random weights, and a VoCo whose labels say nothing, on the same crops with the same
losses. VoCo trains a convolution network, and the MAE, which needs an encoder that can leave tokens
out, a transformer.
"""

import importlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import zoo
from zoo.demo.part import Part, ScoreRow, check_reload
from zoo.demo.shuffled_voco import shuffled
from zoo.demo.torso_trials import (
    CROP,
    CROPS,
    FEW,
    STRUCTURES,
    VOXELS,
    Scores,
    run_trials,
)
from zoo.demo.torsos import ORGANS, SHAPE, write_torsos
from zoo.modalities.volume.transforms import pad_to
from zoo.objectives.contract import Objective
from zoo.objectives.mae import MAE
from zoo.pretraining import restore_objective
from zoo.probes.segmentation import SegmentationRecipe, predict_structures
from zoo.probes.volumes import LabelledVolumes
from zoo.report.chart import Curve, chart
from zoo.report.page import picture
from zoo.runs import EXPORT, Run

__all__ = ["volumes_part"]

MODEL, MASKED_MODEL = "torsos-voco", "torsos-mae"
SHOWN = 4  # bodies in the pictures
_COLOURS = np.array(
    [
        *[(0, 0, 0), (200, 110, 60), (240, 200, 90), (150, 90, 190), (90, 170, 90)],
        *[(90, 200, 200), (230, 140, 170), (240, 240, 160), (220, 60, 60)],
    ],
    np.uint8,
)
VOCO, SHUFFLED, MASKED = "zoo: VoCo", "VoCo, shuffled labels", "zoo: MAE"
RANDOM, RANDOM_VIT = "random weights", "random weights, MAE's transformer"
_PAIRS = ((VOCO, RANDOM), (VOCO, SHUFFLED), (VOCO, VOXELS), (MASKED, RANDOM_VIT))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How much is done."""

    bodies: Mapping[str, int]
    seeds: int
    changes: Mapping[str, object]  # of the recipes
    segmentation: SegmentationRecipe


_SEGMENTATION = SegmentationRecipe(
    epochs=45,
    warmup=2,
    batch_size=2,
    crops=1,
    roi=SHAPE,
    lr=1e-2,
    flip=0.0,  # no left kidney on the right
    overlap=0.0,
)
FULL = _Plan(
    bodies={"train": 120, "labelled": 25, "test": 40},
    seeds=5,
    changes={},
    segmentation=_SEGMENTATION,
)
QUICK = _Plan(
    bodies={"train": 8, "labelled": FEW + 1, "test": 3},
    seeds=2,
    changes={"train.steps": 2, "train.warmup": 1, "train.log_every": 1, "train.batch_size": 4},
    segmentation=replace(_SEGMENTATION, epochs=1, warmup=0),
)


def volumes_part(folder: Path, *, quick: bool) -> Part:
    """Pretrains, measures, and draws.

    Args:
        folder: gets the shards and the runs.
        quick: a few steps, bodies and seeds only.
    """
    plan = QUICK if quick else FULL
    shards = write_torsos(folder / "shards", plan.bodies)
    began = time.perf_counter()
    runs = _pretrained(folder, shards["train"], plan)
    seconds = time.perf_counter() - began
    first = runs[VOCO][0]
    check_reload(first.folder / EXPORT, first.load(), _files(folder))
    trials, network = run_trials(
        runs,
        shards,
        plan.segmentation,
        random={RANDOM: VOCO, RANDOM_VIT: MASKED},
        segmented=(RANDOM, VOCO),
    )
    return Part(
        title="3D medical: VoCo and MAE on synthetic torsos",
        lead=(
            f"No scan of anybody: {plan.bodies['train']} generated abdomens of 48 x 48 x 16 "
            "voxels of 8 x 6 x 16 mm with CT-like intensities, contrast and noise, "
            f"{len(ORGANS)} organs. NIfTI files became shards; {plan.seeds} convolution networks "
            f"of {_size(first)} parameters by VoCo, as many with shuffled labels, and as many "
            f"transformers of {_size(runs[MASKED][0])} by MAE were pretrained without labels."
        ),
        measures=("organ composition, R²", "Dice, fine-tuned"),
        rows=tuple(
            ScoreRow(name, tuple(map(float, np.mean(scores, axis=0))), ours=name in (VOCO, MASKED))
            for name, scores in trials.items()
        ),
        protocol=_protocol(plan),
        figures=(
            _curves(runs),
            _crops(first, shards["test"]),
            *_pictures(restore_objective(runs[MASKED][0]), network, shards["test"], plan),
        ),
        seconds=seconds,
        steps=sum(int(run.metrics[-1]["step"]) for several in runs.values() for run in several),
        verdict=_verdict(trials),
    )


def _pretrained(folder: Path, shards: Path, plan: _Plan) -> dict[str, list[Run]]:
    """Runs of every seed."""
    kinds: tuple[tuple[str, str, str, dict[str, object]], ...] = (
        (VOCO, "voco", MODEL, {}),
        (SHUFFLED, "shuffled", MODEL, shuffled(MODEL)),
        (MASKED, "mae", MASKED_MODEL, {}),
    )
    runs: dict[str, list[Run]] = {name: [] for name, *_ in kinds}
    tasks = [(seed, *kind) for kind in kinds for seed in range(plan.seeds)]
    console = Console(stderr=True)
    for seed, name, word, model, own in track(
        tasks, description="pretraining", console=console, transient=True
    ):
        out, changes = folder / f"{word}-{seed}", {**own, **plan.changes}
        runs[name].append(zoo.pretrain(model, shards, out, changes, seed=seed, progress=False))
    return runs


def _protocol(plan: _Plan) -> str:
    recipe = plan.segmentation
    steps = recipe.epochs * math.ceil(FEW / recipe.batch_size)
    return (
        f"Means over {plan.seeds} seeds, each with its own weights and {FEW} labelled bodies; "
        f"{plan.bodies['test']} unseen bodies. The recipes were chosen on other seeds and "
        "bodies, but for VoCo's dropout, which was left out after a look at these. "
        f"Composition: the share of a random crop of {CROP}³ voxels that each organ fills, "
        f"ridge regression from frozen pooled features of {CROPS} crops a body. Dice: a U-Net "
        f"that is trained for {steps} steps from the encoder's weights, MONAI's DiceCE loss and "
        "Dice, mean over organs. Random weights are those that a run began with. Shuffled "
        "labels: the same crops and losses, but the places that VoCo is told are wrong."
    )


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "shards" / "nifti" / "test").glob("*.ct.nii.gz"))[:SHOWN]


def _size(run: Run) -> str:
    return f"{sum(p.numel() for p in run.load().parameters()):,}"


def _verdict(trials: Mapping[str, Scores]) -> str:
    told = []
    for measure, name in enumerate(("organ composition", "Dice")):
        for ours, control in _PAIRS:
            pairs = [[row[measure] for row in trials[arm]] for arm in (ours, control)]
            if not np.isnan(pairs).any():
                told.append(f"{name}, {ours} against {control} {_difference(*pairs)}")
    return f"Points and the 95 % intervals of the paired differences: {'; '.join(told)}."


def _difference(ours: Sequence[float], control: Sequence[float]) -> str:
    test = importlib.import_module("scipy.stats").ttest_rel(ours, control)  # it has no types
    low, high = (end * 100 for end in test.confidence_interval(0.95))
    mean = np.subtract(ours, control).mean() * 100
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}, p = {test.pvalue:.2g})"


def _curves(runs: Mapping[str, Sequence[Run]]) -> str:
    """The part of VoCo's loss that knows the places, of the first seed."""
    curves = []
    for name in (VOCO, SHUFFLED):
        metrics = runs[name][0].metrics
        steps = [row["step"] for row in metrics]
        curves.append(Curve(name, steps, [row["overlap_error"] for row in metrics]))
    return chart(
        curves,
        x="step",
        y="error of the overlaps",
        caption="How far the overlaps that VoCo tells are from those that it is given.",
    )


@torch.inference_mode()
def _crops(run: Run, test: Path) -> str:
    """Crops of bodies among the base crops, and what VoCo says of where they lie."""
    encoder, objective = restore_objective(run)
    bodies = LabelledVolumes(encoder, test, STRUCTURES)
    generator = torch.Generator().manual_seed(0)
    views = [
        objective.views({"volume": pad_to(bodies.read(index)[0], SHAPE)}, generator)
        for index in range(min(SHOWN, len(bodies)))
    ]
    batch = {name: torch.stack([one[name] for one in views]) for name in views[0]}
    rows = [image for _, image in objective.pictures(encoder, batch)]
    return picture(
        torch.cat(rows).numpy(),
        scale=4,
        alt="Slices of held-out torsos in three rows: a crop on the grid, its shares, found ones",
        caption=(
            "Unseen bodies with a crop on the grid of base crops; the share of the crop that lies "
            "in each; and its likeness to each, by which VoCo tells where it was cut out."
        ),
    )


@torch.inference_mode()
def _pictures(
    masked: tuple[zoo.Encoder, Objective], network: nn.Module, test: Path, plan: _Plan
) -> tuple[str, str]:
    """Reconstructed bodies; and organs, as they are and as a fine-tuned encoder finds them."""
    encoder, objective = masked
    assert isinstance(objective, MAE)
    bodies = LabelledVolumes(encoder, test, STRUCTURES)
    pairs = [bodies.read(index) for index in range(min(SHOWN, len(bodies)))]
    volumes, organs = (
        torch.stack([pad_to(one, SHAPE) for one in parts]) for parts in zip(*pairs, strict=True)
    )
    noise = torch.rand(
        len(volumes), objective.num_tokens, generator=torch.Generator().manual_seed(0)
    )
    rows = [image for _, image in objective.pictures(encoder, {"volume": volumes, "noise": noise})]
    filled = picture(
        torch.cat(rows).numpy(),
        scale=4,
        alt="Slices of held-out torsos in three rows: original, masked, reconstructed",
        caption=(
            "The middle slice of unseen bodies, from below: as it is; what the encoder sees of the "
            "volume; hidden patches filled in by the MAE."
        ),
    )
    found = [predict_structures(network, one, STRUCTURES, plan.segmentation) for one in volumes]
    numbers = torch.arange(1, len(STRUCTURES) + 1, dtype=torch.uint8).view(-1, 1, 1, 1)
    told = torch.stack([(one * numbers).amax(dim=0, keepdim=True) for one in found])
    slices = [
        _frontal((volumes * 255).byte()).expand(3, -1, -1, -1),
        *map(_coloured, (organs, told)),
    ]
    return filled, picture(
        torch.cat([one.flatten(2) for one in slices], dim=1).permute(1, 2, 0).numpy(),
        scale=4,
        alt="Frontal slices of held-out torsos in three rows: scan, true organs, found organs",
        caption=(
            "A frontal slice of the same bodies: the scan; the organs as they are; and as a VoCo "
            f"encoder that was fine-tuned on {FEW} bodies finds them."
        ),
    )


def _coloured(organs: Tensor) -> Tensor:
    """(N, 1, X, Y, Z) numbers of organs -> (3, 2 Z, N, X), each in its colour."""
    return torch.from_numpy(_COLOURS)[_frontal(organs).long()].permute(3, 0, 1, 2)


def _frontal(volumes: Tensor) -> Tensor:
    """(N, 1, X, Y, Z) -> (2 Z, N, X): the plane of kidneys and liver, seen from the front."""
    plane = volumes[:, 0, :, SHAPE[1] * 3 // 8].flip(1, 2).permute(2, 0, 1)
    return plane.repeat_interleave(2, dim=0)  # slices are twice as thick as voxels are wide
