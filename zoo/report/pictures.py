"""What a run's pretext task looks like now: its newest weights on a few of its own samples.

The run may be in progress: nothing is locked, moved or removed.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from zoo.data.compose import open_data
from zoo.errors import DataError, IntegrityError, UsageError
from zoo.modalities.contracts import Batch, Encoder
from zoo.objectives.contract import Objective
from zoo.pretraining import ASSETS
from zoo.registry.build import Spec, build_codec, build_encoder, build_objective
from zoo.registry.recipe import Recipe
from zoo.runs import Run

__all__ = ["objective_pictures"]

SHOWN = 8  # samples
_TRIES = 3  # a run in progress may remove a checkpoint while it is read


@torch.inference_mode()
def objective_pictures(run: Run) -> tuple[int, list[tuple[str, np.ndarray]]]:
    """The objective's own pictures, by the weights of the newest checkpoint.

    Returns:
        Steps trained, and (title, uint8 image (H, W, 1 or 3)) each; none where the objective
        draws none.

    Raises:
        UsageError: there is no checkpoint in one piece, or the data are gone.
        IntegrityError: the checkpoint is damaged.
    """
    encoder, objective = _untrained(run)
    if type(objective).pictures is Objective.pictures:
        return 0, []
    step, weights = _newest(run.folder)
    for name, module in (("encoder.", encoder), ("objective.", objective)):
        module.load_state_dict(
            {key.removeprefix(name): v for key, v in weights.items() if key.startswith(name)}
        )
        module.eval()
    drawn = objective.pictures(encoder, _batch(run.recipe, encoder, objective))
    return step, [(title, image.numpy()) for title, image in drawn]


def _untrained(run: Run) -> tuple[Encoder, Objective]:
    recipe = run.recipe
    spec = Spec(
        name=recipe.model,
        modality=recipe.modality,
        encoder=recipe.encoder,
        preprocess=recipe.preprocess,
    )
    encoder = build_encoder(spec)
    if (assets := run.folder / ASSETS).exists():
        encoder.preprocess.load_assets({f.name: f.read_bytes() for f in assets.iterdir()})
    return encoder, build_objective(recipe.objective, encoder)


def _newest(folder: Path) -> tuple[int, dict[str, Tensor]]:
    """Step and weights of the newest checkpoint, verified."""
    for _ in range(_TRIES):
        for path in sorted((folder / "checkpoints").glob("step-*[0-9]"), key=_step, reverse=True):
            file = path / "model.safetensors"
            try:
                manifest = json.loads((path / "manifest.json").read_text())
                content = file.read_bytes()
            except FileNotFoundError:  # removed meanwhile, or divided among processes
                continue
            if hashlib.sha256(content).hexdigest() != manifest[file.name]["sha256"]:
                raise IntegrityError(f"{file}: damaged, its sha256 is not the one written")
            return _step(path), load(content)
    raise UsageError(f"{folder}: has no checkpoint in one piece yet")


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


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
