"""Heads on features, and the one routine that trains them while the encoder is frozen.

Notation: N samples, B of a batch, T tokens of a sample (prefix tokens first), D width, K classes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from zoo.errors import UsageError
from zoo.probes.losses import Several, classification_loss
from zoo.probes.metrics import Scores
from zoo.registry.recipe import TrainRecipe
from zoo.training.groups import Group, parameter_groups
from zoo.training.lars import LARS
from zoo.training.schedule import Schedule, build_schedule

__all__ = [
    "Head",
    "HeadRecipe",
    "Linear",
    "Standardize",
    "fit",
    "predict",
    "rates",
    "seeded",
    "train_head",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """How a head is trained; the defaults are Bird-MAE's few-shot protocol (arXiv 2504.12880).

    MAE's linear probing (arXiv 2111.06377) is `lars` with `standardize="batch"`.
    """

    epochs: int = 50
    batch_size: int = 64
    lr: float = 4e-4
    weight_decay: float = 3e-4
    warmup: float = 0.067  # share of the steps
    clip_grad: float = 2.0  # inf: not at all
    optimizer: Literal["adamw", "lars"] = "adamw"
    several: Several = "asymmetric"  # the loss where samples have any number of labels
    # Features to mean 0 and deviation 1 over the training set, or over each batch, as BatchNorm.
    standardize: bool | Literal["batch"] = True
    # What kNN and linear probes see: what the encoder pools itself, or the mean over its tokens
    # behind the final norm. Bird-MAE's own pooling is before that norm.
    pool: Literal["encoder", "norm"] = "encoder"

    def schedule(self, samples: int) -> Schedule:
        """The learning rate of each step of the training on so many samples."""
        steps = self.epochs * -(-samples // self.batch_size)
        recipe = TrainRecipe(
            batch_size=self.batch_size,
            steps=steps,
            warmup=self.warmup * steps,
            lr=self.lr,
            min_lr=min(1e-6, self.lr),
        )
        return build_schedule(recipe, samples)

    def build_optimizer(self, groups: list[Group]) -> Optimizer:
        """The optimiser of some parameters."""
        return LARS(groups, self.lr) if self.optimizer == "lars" else AdamW(groups, self.lr)


class Head(nn.Module):
    """Features -> logits (B, K)."""

    takes_tokens: ClassVar[bool] = True  # (B, T, D); else pooled features (B, D)
    learning_rates: ClassVar[dict[str, float]] = {}  # of parameters that have one of their own

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        return torch.zeros(())


class Linear(Head):
    """One linear layer on pooled features."""

    takes_tokens = False

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, K)."""
        return self.linear(features)


class Standardize(nn.Module):
    """Every feature to mean 0 and deviation 1, by the statistics of the training set."""

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor) -> None:
        """Takes the statistics of (N, ..., D), in pieces: features may be half precision."""
        super().__init__()
        dims = tuple(range(features.ndim - 1))
        count = features[..., 0].numel()
        mean = sum(part.double().sum(dims) for part in features.split(256)) / count
        spread = sum((part.double() - mean).square().sum(dims) for part in features.split(256))
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", (spread / count).sqrt().clamp(min=1e-6).float())

    def forward(self, features: Tensor) -> Tensor:
        """(B, ..., D) -> the same shape."""
        return (features - self.mean) / self.scale


def train_head(
    head: Head, features: Tensor, targets: Tensor, recipe: HeadRecipe, *, seed: int
) -> nn.Module:
    """Trains a head on frozen features; warm-up, cosine.

    Args:
        head: with random weights.
        features: (N, D) or (N, T, D), of any floating type.
        targets: (N,) labels, or (N, K) zeros and ones.
        recipe: optimisation.
        seed: of the order of the samples.

    Returns:
        The head behind its standardisation, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    order = (
        index
        for _ in range(recipe.epochs)
        for index in torch.randperm(len(features), generator=generator).split(recipe.batch_size)
        if len(index) > 1 or recipe.standardize != "batch"  # one sample has no deviation
    )
    model = nn.Sequential(_scaling(features, recipe).to(next(head.parameters()).device), head)
    for _ in fit(model, features, targets, recipe, order):
        pass
    return model.eval()


def fit(
    model: nn.Sequential,
    features: Tensor,
    targets: Tensor,
    recipe: HeadRecipe,
    order: Iterable[Tensor],
) -> Iterator[Tensor]:
    """Trains a standardisation and the head behind it, step by step; gives the losses.

    Args:
        model: of these two.
        features: see `train_head`.
        targets: see `train_head`.
        recipe: see `train_head`.
        order: indices of the samples of each step.
    """
    _, head = model
    assert isinstance(head, Head)
    device = next(head.parameters()).device
    optimizer = recipe.build_optimizer(
        parameter_groups(head.named_parameters(), recipe.weight_decay, rates(head, recipe.lr))
    )
    schedule = recipe.schedule(len(features))
    model.train()
    for step, index in enumerate(order):
        logits = model(features[index].to(device).float())
        loss = classification_loss(logits, targets[index].to(device), recipe.several)
        loss = loss + head.penalty()
        update(optimizer, loss, schedule(step), recipe.clip_grad)
        yield loss.detach()


def _scaling(features: Tensor, recipe: HeadRecipe) -> nn.Module:
    if recipe.standardize == "batch":
        if features.ndim != 2:
            raise UsageError("standardize='batch' is for pooled features: kind='linear'")
        return nn.BatchNorm1d(features.shape[-1], affine=False, eps=1e-6)
    return Standardize(features) if recipe.standardize else nn.Identity()


def update(optimizer: Optimizer, loss: Tensor, lr: float, clip_grad: float) -> None:
    """One step of gradient descent; each group's rate is `lr` times its `lr_scale`."""
    optimizer.zero_grad()
    loss.backward()
    groups = optimizer.param_groups
    nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], clip_grad)
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    optimizer.step()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """All chance inside comes from `seed`; outside none is disturbed."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def rates(head: Head, lr: float) -> dict[str, float]:
    """Learning rates of a head's parameters, relative to `lr`."""
    return {name: head.learning_rates.get(name, lr) / lr for name, _ in head.named_parameters()}


@torch.inference_mode()
def predict(model: nn.Module, features: Tensor) -> Scores:
    """Logits (B, K) of a trained head."""
    scores: Scores = model(features.float()).float().cpu().numpy()
    return scores
