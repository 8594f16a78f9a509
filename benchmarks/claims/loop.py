"""Masked autoencoders of images that fit into memory: a loop without shards, for minutes of a CPU.

Notation: N images, C channels, S side.
"""

import torch
from torch import Tensor, nn
from zoo.modalities.contracts import Encoder
from zoo.objectives.mae import MAE
from zoo.registry.recipe import TrainRecipe

from zoo.training.optim import build_optimizers
from zoo.training.schedule import build_schedule

__all__ = ["train_mae"]


def train_mae(
    encoder: Encoder, objective: MAE, images: Tensor, recipe: TrainRecipe, *, seed: int
) -> None:
    """Trains both in place, on images (N, C, S, S) as `preprocess` makes them, without crops.

    Args:
        encoder: in eval mode afterwards.
        objective: with its decoder, and perhaps a teacher.
        images: drawn with replacement.
        recipe: optimisation.
        seed: of images and masks.
    """
    pair = nn.ModuleList([encoder, objective]).train()
    learning = [(name, one) for name, one in pair.named_parameters() if one.requires_grad]
    optimizers = build_optimizers(learning, recipe)
    schedule = build_schedule(recipe, len(images))
    generator = torch.Generator().manual_seed(seed)
    for step in range(recipe.total_steps(len(images))):
        chosen = torch.randint(len(images), (recipe.batch_size,), generator=generator)
        noise = torch.rand(len(chosen), objective.num_tokens, generator=generator)
        objective(encoder, {"image": images[chosen], "noise": noise}).total.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            optimizer.step()
            optimizer.zero_grad()
    pair.eval()
