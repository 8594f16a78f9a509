"""Handwritten digits (scikit-learn's 1,797 real scans) and small MAEs of them, for several claims.

Every seed has a split, weights and an order of its own; a fifth of the scans is held out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import zoo
from zoo.demo.digits import MODEL, Data, read_digits, write_digits
from zoo.pretraining import untrained

__all__ = ["DATA", "STEPS", "Digits", "pretrained", "shards_of"]

DATA = "scikit-learn's handwritten digits, real"
STEPS = 400  # of pretraining


class Digits(NamedTuple):
    """An encoder that saw the training scans without their labels."""

    encoder: zoo.Encoder
    random: zoo.Encoder  # with the weights of its start
    train: Data
    test: Data


def shards_of(folder: Path, seed: int) -> dict[str, Path]:
    """Both splits of a seed; written once."""
    return write_digits(folder / f"digits-{seed}", seed=seed)


def pretrained(folder: Path, seed: int, options: Mapping[str, object] | None = None) -> Digits:
    """Pretrains the demo's MAE.

    Args:
        folder: for shards and runs.
        seed: of everything.
        options: what changes in the recipe.
    """
    shards = shards_of(folder, seed)
    changes = {"train.steps": STEPS, "train.save_every": STEPS, **(options or {})}
    out = folder / f"run-{len([*folder.iterdir()])}"
    run = zoo.pretrain(MODEL, shards["train"], out, changes, seed=seed, progress=False)
    return Digits(
        encoder=run.load(),
        random=untrained(run).eval(),
        train=read_digits(shards["train"]),
        test=read_digits(shards["test"]),
    )
