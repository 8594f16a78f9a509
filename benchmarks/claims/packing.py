"""How much of a training step packing saves (MosaicBERT, arXiv 2312.17482, unpads likewise).

The same encoder, weights, functions and masks, packed end to end and padded to the longest of a
batch; forward, backward and AdamW, in real tokens per second of the processor on one thread, in
turn. Each seed draws other batches.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials
from zoo.benchmarks.claims.masked import DATA
from zoo.benchmarks.speed.code import TEXTS, Texts, pair, prepare, tokenised, updater
from zoo.modalities.contracts import Batch

__all__ = ["CLAIM", "padded"]

BATCHES = 6  # of 32 functions, for each seed


def padded(texts: Texts) -> Batch:
    """The same batch as a rectangle."""
    wanted = texts.labels.flatten() >= 0
    return {
        "ids": texts.ids,
        "valid": texts.valid,
        "target_index": wanted.nonzero().flatten(),
        "target_ids": texts.labels.flatten()[wanted],
    }


def packed(texts: Texts) -> Batch:
    """The batch as zoo trains on it."""
    return texts.packed


def update_of(form: Callable[[Texts], Batch]) -> Callable[[Texts], float]:
    """An update on batches of that form, which says the loss; all begin with the same weights."""
    torch.manual_seed(0)
    encoder, objective = pair()
    losses: list[Tensor] = []

    def loss(texts: Texts) -> Tensor:
        losses.append(objective(encoder, form(texts)).total)
        return losses[-1]

    step = updater(loss, nn.ModuleList([encoder, objective]))

    def update(texts: Texts) -> float:
        step(texts)
        return losses.pop().item()

    return update


def trials(seeds: int, folder: Path) -> Trials:
    """Packed against padded batches of functions of the standard library."""
    torch.set_num_threads(1)
    texts, largest = tokenised(), 0.0
    updates = {"packed": update_of(packed), "padded": update_of(padded)}
    speeds: dict[str, list[float]] = {way: [] for way in updates}
    shares = []
    for seed in range(seeds):
        chance, (encoder, objective) = random.Random(seed), pair()
        drawn = [prepare(chance.sample(texts, TEXTS), objective, encoder) for _ in range(BATCHES)]
        seconds = dict.fromkeys(updates, 0.0)
        for number, batch in enumerate([drawn[0], *drawn]):  # the first does not count
            found = []
            for way, update in updates.items():
                began = time.process_time()
                found.append(update(batch))
                seconds[way] += (time.process_time() - began) * bool(number)
            largest = max(largest, abs(found[0] - found[1]) / found[1])
        tokens = sum(batch.tokens for batch in drawn)
        shares.append(1 - tokens / sum(batch.ids.numel() for batch in drawn))
        for way, spent in seconds.items():
            speeds[way].append(tokens / spent)
    ratios = [a / b for a, b in zip(*speeds.values(), strict=True)]
    facts = {
        "share_of_padding": [round(share, 3) for share in shares],
        "times_faster": [round(ratio, 3) for ratio in ratios],
        "largest_relative_difference_of_the_loss": largest,
    }
    return Trials(speeds, facts)


CLAIM = Claim(
    name="packing",
    paper="2312.17482",
    says="Without padding a step takes less: no arithmetic on tokens that are none.",
    modality="code",
    data=DATA,
    measure="real tokens per second of the processor",
    comparisons=(Comparison(ours="packed", base="padded"),),
    seeds=3,
    budget=120,
    trials=trials,
)
