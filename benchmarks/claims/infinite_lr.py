"""Whether an infinite learning rate forgets less than repeated cosines (arXiv 2503.02844).

A small MAE learns one domain after another: scans of digits, the same with ink and paper swapped,
and the same turned by 90 degrees. The repeated cosine warms up anew for every domain; the infinite
rate warms up once, falls to a constant, and is annealed at the very end. What counts is the loss on
held-out scans of all three domains after the last one.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from zoo.benchmarks.claims.claim import Claim, Comparison, Trials, each_seed
from zoo.benchmarks.claims.digits import DATA, shards_of
from zoo.objectives.mae import MAE
from zoo.registry.build import build_objective
from zoo.registry.recipe import TrainRecipe

import zoo
from zoo.demo.digits import MODEL, read_digits
from zoo.training.optim import build_optimizers
from zoo.training.schedule import build_schedule

__all__ = ["CLAIM"]

STEPS, BATCH, LR = 200, 64, 5e-3  # of each domain
DOMAINS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda image: image,
    lambda image: 255 - image,
    lambda image: image.rot90(1, (2, 3)),
)
INFINITE, REPEATED = "infinite", "repeated cosine"


def recipes() -> dict[str, TrainRecipe]:
    """Both schedules over all domains, of equal peak and length."""
    total = STEPS * len(DOMAINS)
    repeated = TrainRecipe(
        batch_size=BATCH,
        steps=total,
        lr=LR,
        warmup=STEPS // 10,
        optimizer="muon",
        restarts=tuple(float(begin) for begin in range(STEPS, total, STEPS)),
    )
    infinite = TrainRecipe(
        batch_size=BATCH,
        steps=total,
        lr=LR,
        warmup=STEPS // 10,
        optimizer="muon",
        schedule="infinite",
        cooldown=STEPS // 2,
        constant_lr=LR / 2,
        anneal=STEPS // 4,
    )
    return {INFINITE: infinite, REPEATED: repeated}


def losses(recipe: TrainRecipe, train: Tensor, test: Tensor, seed: int) -> list[float]:
    """Of every domain's held-out scans (M, 1, 8, 8), after training on (N, 1, 8, 8) in turn."""
    encoder = zoo.create(MODEL, seed=seed).train()
    card = zoo.card(MODEL).recipe
    assert card is not None
    torch.manual_seed(seed)
    objective = build_objective(card.objective, encoder)
    assert isinstance(objective, MAE)
    pair = nn.ModuleList([encoder, objective])
    optimizers, schedule = (
        build_optimizers(pair.named_parameters(), recipe),
        build_schedule(recipe, len(train)),
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS * len(DOMAINS)):
        chosen = torch.randint(len(train), (BATCH,), generator=generator)
        noise = torch.rand(BATCH, objective.num_tokens, generator=generator)
        batch = {"image": DOMAINS[step // STEPS](train[chosen]), "noise": noise}
        objective(encoder, batch).total.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            optimizer.step()
            optimizer.zero_grad()
    noise = torch.rand(len(test), objective.num_tokens, generator=generator)
    with torch.inference_mode():
        pair.eval()
        return [
            objective(encoder, {"image": domain(test), "noise": noise}).total.item()
            for domain in DOMAINS
        ]


def trials(seeds: int, folder: Path) -> Trials:
    """Mean loss of all domains, and that of the first one."""

    def measure(seed: int) -> dict[str, float]:
        shards = shards_of(folder, seed)
        preprocess = zoo.create(MODEL).preprocess
        train, test = (
            preprocess.collate([preprocess(one) for one in read_digits(shards[side])[0]])["image"]
            for side in ("train", "test")
        )
        found: dict[str, float] = {}
        for name, recipe in recipes().items():
            each = losses(recipe, train, test, seed)
            found |= {name: sum(each) / len(each), f"{name}, first domain": each[0]}
        return found

    return each_seed(seeds, measure, {"steps_per_domain": STEPS})


CLAIM = Claim(
    name="infinite_lr",
    paper="2503.02844",
    says="In continual pretraining an infinite learning rate ends lower than repeated cosines.",
    modality="vision",
    data=f"{DATA}, in three domains",
    measure="mean held-out loss of all domains",
    comparisons=(Comparison(ours=INFINITE, base=REPEATED, better="lower"),),
    budget=240,
    trials=trials,
)
