"""What a run's pretext task looks like now: its newest weights on a few of its own samples.

The run may be in progress: nothing is locked, moved or removed.
"""

import numpy as np
import torch

from zoo.data.compose import open_data
from zoo.errors import DataError, UsageError
from zoo.modalities.contracts import Batch, Encoder
from zoo.objectives.contract import Objective
from zoo.registry.build import build_codec
from zoo.registry.recipe import Recipe
from zoo.restoring import blank, restore
from zoo.runs import Run

__all__ = ["objective_pictures"]

SHOWN = 8  # samples


@torch.inference_mode()
def objective_pictures(run: Run) -> tuple[int, list[tuple[str, np.ndarray]]]:
    """The objective's own pictures, by the weights of the newest checkpoint.

    Returns:
        Steps trained, and (title, uint8 image (H, W, 1 or 3)) each; none where the objective
        draws none.

    Raises:
        UsageError: there is no checkpoint, or the data are gone.
        IntegrityError: the checkpoint is damaged.
    """
    encoder, objective = blank(run)
    if type(objective).pictures is Objective.pictures:
        return 0, []
    step = restore(run, encoder, objective)
    drawn = objective.pictures(encoder, _batch(run.recipe, encoder, objective))
    return step, [(title, image.numpy()) for title, image in drawn]


def _batch(recipe: Recipe, encoder: Encoder, objective: Objective) -> Batch:
    """A few samples from all over the data, as inference would see them."""
    samples, _ = open_data(
        recipe.data, recipe.loader, seed=recipe.seed, batch_size=recipe.train.batch_size
    )
    codec, generator = build_codec(recipe.modality), torch.Generator().manual_seed(0)
    ids = np.linspace(0, len(samples) - 1, min(SHOWN, len(samples))).round().astype(np.int64)
    prepared = []
    for _, members in sorted(samples.read_many(ids), key=lambda found: found[0]):
        if isinstance(members, DataError):
            continue
        sample = encoder.preprocess(codec.decode(members))
        prepared.append(objective.views(sample, generator))
    if not prepared:
        raise UsageError(f"{recipe.data}: none of {len(ids)} samples can be read")
    return encoder.preprocess.collate(prepared)
