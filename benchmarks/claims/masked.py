"""Two ways of pretraining on the standard library, by the loss on hidden tokens of unseen modules.

Both start from the same weights and see the same functions in the same order, for equal steps. 15 %
of the tokens of held-out functions are hidden, alike for both; the loss is a mean over functions.
Its gain gets a t interval over seeds, and one over modules for the mean of the seeds.
"""

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from zoo.benchmarks.claims.claim import Comparison, Trials
from zoo.modalities.code.codec import CodeCodec
from zoo.objectives.masked_lm import MaskedLM

import zoo
from zoo.data.shards import ShardSet
from zoo.demo.masked_tokens import hide
from zoo.demo.stdlib import write_stdlib
from zoo.pretraining import restore_objective
from zoo.probes.search import cluster_interval
from zoo.runs import Run

__all__ = ["DATA", "MEASURE", "trials"]

MODEL = "stdlib-mlm-tiny"
STEPS = 300  # of each run
HELD_OUT = 800  # functions, evenly from all
DATA = "functions of the running Python's standard library"
MEASURE = "loss at 15 % hidden"
_TOGETHER = 64
Options = Mapping[str, object]
Losses = NDArray[np.float64]


def trials(compared: Comparison, ways: Mapping[str, Options], seeds: int, folder: Path) -> Trials:
    """Trains every way with every seed, and measures.

    Args:
        compared: two of the names of `ways`.
        ways: what each changes in the recipe of the demo.
        seeds: how many.
        folder: for shards and runs.
    """
    shards = write_stdlib(folder / "shards")
    texts, modules = _held_out(shards["test"])
    losses: dict[str, list[Losses]] = {way: [] for way in ways}
    for seed in range(seeds):
        for number, (way, options) in enumerate(ways.items()):
            out = folder / f"run-{seed}-{number}"
            run = {"train.steps": STEPS, "train.save_every": STEPS, **options}
            zoo.pretrain(MODEL, shards["train"], out, run, seed=seed, progress=False)
            losses[way].append(_losses(out, texts))
            click.echo(f"seed {seed}, {way}: {losses[way][-1].mean():.4f}")
    ours, base = (np.mean(losses[way], axis=0) for way in (compared.ours, compared.base))
    low, high = cluster_interval(base - ours, modules)
    means = {way: [float(one.mean()) for one in found] for way, found in losses.items()}
    return Trials(
        means,
        {
            "steps": STEPS,
            "functions": len(texts),
            "modules": len(set(modules)),
            "interval_95_over_modules": [round(low, 5), round(high, 5)],
        },
    )


def _held_out(folder: Path) -> tuple[list[str], list[str]]:
    """Texts of the test side, and the module of each."""
    shards, codec = ShardSet(folder), CodeCodec()
    texts, modules = [], []
    for number in range(0, len(shards), max(1, len(shards) // HELD_OUT)):
        sample = codec.decode(shards.read(number))
        facts = sample["facts"]
        assert isinstance(facts, dict)
        texts.append(str(sample["text"]))
        modules.append(str(facts["module"]))
    return texts, modules


@torch.inference_mode()
def _losses(out: Path, texts: list[str]) -> Losses:
    """Mean cross-entropy of each text's hidden tokens."""
    encoder, objective = restore_objective(Run(out))
    assert isinstance(objective, MaskedLM)
    hidden = hide((encoder.preprocess(text)["ids"] for text in texts), objective, seed=0)
    found: list[float] = []
    for start in range(0, len(hidden), _TOGETHER):
        part = hidden[start : start + _TOGETHER]
        samples = [{"ids": text.ids, "target_index": text.index} for text in part]
        logits = objective.predict(encoder, encoder.preprocess.collate(samples))
        truth = torch.cat([text.truth for text in part])
        losses = cross_entropy(logits.float(), truth, reduction="none")
        found += [float(one.mean()) for one in losses.split([len(text.truth) for text in part])]
    return np.array(found)
