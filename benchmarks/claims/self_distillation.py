"""Whether self-distillation helps further pretraining (arXiv 2210.02871).

A small MAE of pieces of scikit-learn's two photographs is to serve handwritten digits, of which a
fifth, 360, is there. It is fine-tuned on them as it is, after further pretraining on them, and
after as many steps beside the further-pretrained self; the other digits judge. As in the paper the
student's steps come on top of its teacher's, and the decoder is taken along.

Notation: N images, S side.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA, Digits, shards_of
from zoo.benchmarks.claims.loop import train_mae
from zoo.benchmarks.claims.nearest_mean import fine_tuned
from zoo.objectives.mae import MAE
from zoo.objectives.self_distillation import SelfDistillation
from zoo.registry.build import build_objective
from zoo.registry.recipe import TrainRecipe

import zoo
from zoo.demo.digits import MODEL, read_digits

__all__ = ["CLAIM"]

STEPS, FURTHER = 400, 200  # on the pieces; on the digits, of teacher and student each
PIECES, SIDE, EVERY = 4000, 8, 2  # of a seed; pixels; one of so many of the photographs' is taken
PASSES = 2  # of fine-tuning
RECIPE = TrainRecipe(batch_size=64, steps=STEPS, lr=5e-3, warmup=20, optimizer="muon")
# As in the paper a sixteenth of the peak (1.5e-4 after MAE's 2.4e-3), on a line without warm-up.
GENTLE = TrainRecipe(
    batch_size=64, steps=FURTHER, lr=5e-3 / 16, schedule="linear", optimizer="muon"
)
AS_IT_IS, MORE, DISTILLED = "as it is", "pretrained further", "self-distilled"
Pair = tuple[zoo.Encoder, MAE]


def pieces(seed: int) -> Tensor:
    """(N, 1, S, S) uint8: random squares of both photographs, in grey."""
    rng, found = np.random.default_rng(seed), []
    for photograph in load_sample_images().images:
        grey = photograph[::EVERY, ::EVERY].mean(axis=2).astype(np.uint8)
        for _ in range(PIECES // 2):
            top, left = (int(rng.integers(size - SIDE + 1)) for size in grey.shape)
            found.append(grey[top : top + SIDE, left : left + SIDE])
    return torch.from_numpy(np.stack(found)).unsqueeze(1)


def objective_of(encoder: zoo.Encoder, options: Mapping[str, object]) -> MAE:
    """The card's, with these changes."""
    recipe = zoo.card(MODEL).recipe
    assert recipe is not None
    objective = build_objective({**recipe.objective, **options}, encoder)
    assert isinstance(objective, MAE)
    return objective


def further(start: Pair, images: Tensor, seed: int, teacher: zoo.Encoder | None = None) -> Pair:
    """From the start on, on other images; beside a teacher, if there is one."""
    encoder, objective = copy.deepcopy(start)
    if teacher is not None:
        options = {"name": "self_distillation", "teacher": MORE}
        known, objective = objective.state_dict(), objective_of(encoder, options)
        objective.load_state_dict(known, strict=False)
        assert isinstance(objective, SelfDistillation)
        objective.teachers()[MORE].load_state_dict(teacher.state_dict())
    train_mae(encoder, objective, images, replace(GENTLE, steps=FURTHER), seed=seed)
    return encoder, objective


def trials(seeds: int, folder: Path) -> Trials:
    """Accuracy of all three after fine-tuning."""

    def measure(seed: int) -> dict[str, float]:
        few, others = (read_digits(shards_of(folder, seed)[side]) for side in ("test", "train"))
        torch.manual_seed(seed)
        encoder = zoo.create(MODEL, seed=seed)
        start = encoder, objective_of(encoder, {})
        train_mae(*start, pieces(seed), replace(RECIPE, steps=STEPS), seed=seed)
        digits = torch.stack([torch.as_tensor(sample["image"]) for sample in few[0]])
        teacher, _ = further(start, digits, seed)
        student, _ = further(start, digits, seed, teacher)
        ways = {DISTILLED: student, MORE: teacher, AS_IT_IS: encoder}
        return {
            way: fine_tuned(Digits(one, encoder, few, others), seed, [range(10)] * PASSES)
            for way, one in ways.items()
        }

    return each_seed(seeds, measure, {"steps": STEPS, "further_steps": FURTHER})


CLAIM = Claim(
    name="self_distillation",
    paper="2210.02871",
    says="Further pretraining beside one's further-pretrained self beats further pretraining.",
    modality="vision",
    data=f"{DATA}, after pieces of its two photographs",
    measure="accuracy after fine-tuning",
    comparisons=tuple(Comparison(ours=DISTILLED, base=base) for base in (MORE, AS_IT_IS)),
    seeds=3,
    budget=180,
    trials=trials,
)
