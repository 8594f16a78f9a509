"""Fine-tuning by Bird-MAE's protocol (arXiv 2504.12880): a head, and the whole encoder behind it.

Lower layers learn slower (layer-wise decay), training views are the preprocessing's own, and the
last weights count: nothing is selected on test samples.

Notation: B samples, K classes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.modalities.contracts import Batch, Encoder, to_device
from zoo.probes.attentive import Attentive
from zoo.probes.frozen import TokenMap, pooled, token_map
from zoo.probes.heads import Head, HeadRecipe, Linear, rates, update
from zoo.probes.losses import classification_loss
from zoo.probes.prototypical import Prototypical
from zoo.probes.samples import Labelled
from zoo.probes.score import class_count
from zoo.training.groups import layer_scales, parameter_groups

__all__ = ["FinetuneRecipe", "HeadKind", "Tuned", "build_head", "finetune", "held"]

HeadKind = Literal["linear", "attentive", "prototypical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRecipe(HeadRecipe):
    """How the encoder is trained along; the defaults are Bird-MAE's."""

    epochs: int = 30
    batch_size: int = 128
    lr: float = 3e-4
    standardize: bool = False  # the encoder moves
    head: HeadKind = "prototypical"
    layer_decay: float = 0.75


class Tuned(nn.Module):
    """An encoder with its head."""

    def __init__(self, encoder: Encoder, head: Head, pool: Literal["encoder", "norm"]) -> None:
        super().__init__()
        self.encoder, self.head, self.pool = encoder, head, pool

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, K) of a batch."""
        if not self.head.takes_tokens:
            return self.head(pooled(self.encoder, batch, self.pool))
        return self.head(token_map(self.encoder, batch).x)


def build_head(kind: HeadKind, encoder: Encoder, classes: int, tokens: TokenMap | None) -> Head:
    """A head with random weights for an encoder whose token map looks like `tokens`.

    A linear one needs none: its encoder may pack samples of different lengths.
    """
    if kind == "linear":
        return Linear(encoder.embed_dim, classes)
    assert tokens is not None
    width = tokens.x.shape[-1]
    if kind == "prototypical":
        return Prototypical(width, classes, grid=tokens.grid, prefix=tokens.prefix)
    heads = getattr(getattr(encoder, "config", None), "heads", 1)
    return Attentive(width, classes, heads=heads, prefix=tokens.prefix)


def finetune(
    samples: Labelled,
    indices: Sequence[int],
    targets: Tensor,
    recipe: FinetuneRecipe,
    *,
    seed: int,
) -> Tuned:
    """Trains a copy of the samples' encoder.

    Args:
        samples: to train on; their encoder stays as it is.
        indices: of those that are used.
        targets: (len(indices),) classes, or (len(indices), K) zeros and ones.
        recipe: optimisation.
        seed: of order and augmentation; the head's comes from torch's own generator.
    """
    encoder = copy.deepcopy(samples.encoder)
    generator = torch.Generator().manual_seed(seed)
    batch, _ = next(samples.batches(indices[:1], 1))
    with torch.no_grad():
        tokens = None if recipe.head == "linear" else token_map(encoder.eval(), batch)
    head = build_head(recipe.head, encoder, class_count(targets.numpy()), tokens)
    model = Tuned(encoder, head, recipe.pool).to(samples.device)
    optimizer, schedule, step = _optimizer(model, recipe), recipe.schedule(len(indices)), 0
    model.train()
    for _ in range(recipe.epochs):
        for part in torch.randperm(len(indices), generator=generator).split(recipe.batch_size):
            views = [
                encoder.preprocess.augment(samples.sample(indices[i]), generator)
                for i in part.tolist()
            ]
            batch = encoder.preprocess.collate(views)
            wanted = held(batch, targets[part])
            logits = model(to_device(batch, samples.device))
            loss = classification_loss(logits, wanted.to(samples.device), recipe.several)
            update(optimizer, loss + head.penalty(), schedule(step), recipe.clip_grad)
            step += 1
    return model.eval()


def held(batch: Batch, targets: Tensor) -> Tensor:
    """The targets of a batch whose samples were mixed: those of all that a sample holds.

    Where samples have one label each, it stays that of the loudest.
    """
    if "holds" not in batch or targets.ndim == 1:
        return targets
    return (batch["holds"].float() @ targets).clamp(max=1.0)


def _optimizer(model: Tuned, recipe: FinetuneRecipe) -> torch.optim.Optimizer:
    """With layer-wise rates; the head has its own, above all blocks."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    scales = layer_scales(
        [name.replace("head.", "objective.", 1) for name, _ in named], recipe.layer_decay
    )
    scales = {name.replace("objective.", "head.", 1): scale for name, scale in scales.items()}
    scales |= {f"head.{name}": rate for name, rate in rates(model.head, recipe.lr).items()}
    return recipe.build_optimizer(parameter_groups(named, recipe.weight_decay, scales))
