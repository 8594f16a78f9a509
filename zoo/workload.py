"""What one sample of a recipe costs, measured here: FLOPs, bytes, seconds of a core, a checkpoint.

Encoder and objective are built without numbers, so that any size fits into any memory.
"""

import io
import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from zoo.data.compose import open_data
from zoo.errors import DataError, UsageError
from zoo.modalities.contracts import Batch, Buffer, Encoder
from zoo.objectives.contract import Objective
from zoo.planning import Workload
from zoo.registry.build import build_codec, build_encoder, build_objective
from zoo.registry.recipe import Recipe
from zoo.runs import spec_of
from zoo.training.flops import ForwardFlops

__all__ = ["measure", "real_members", "synthetic_members"]

_FIT = 256  # samples that a tokenizer learns from
_SHOWN = 16  # samples that are counted and timed
_SECONDS = 0.5  # that preparing them is timed for, at least
_FLOAT = 4  # bytes: weights, gradients and the optimiser's moments are float32

Members = Mapping[str, Buffer]


def synthetic_members(modality: str) -> list[Members]:
    """A sample like those of common data: a noisy photo of 500 x 375, five seconds of noise.

    Raises:
        UsageError: of this modality no sample is typical.
    """
    rng = np.random.default_rng(0)
    if modality == "vision":
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG")
        return [{"jpg": buffer.getvalue()}]
    if modality == "audio":
        sound = (rng.standard_normal(5 * 32_000) * 3000).astype(np.int16)
        return [build_codec("audio").encode({"audio": sound, "rate": 32_000})]
    raise UsageError(
        f"no sample of {modality} is typical: give shards with --data, and how many samples with "
        "train.steps=... where the data are to be more than these"
    )


def real_members(recipe: Recipe) -> tuple[list[Members], int]:
    """Samples from the start of the recipe's shards, and how many there are."""
    samples, _ = open_data(
        recipe.data, recipe.loader, seed=recipe.seed, batch_size=recipe.train.batch_size
    )
    found = samples.read_many(np.arange(min(_FIT, len(samples))))
    whole: list[Members] = [members for _, members in found if not isinstance(members, DataError)]
    if not whole:
        raise UsageError(f"{recipe.data}: none of the first {_FIT} samples can be read")
    return whole, len(samples)


def measure(recipe: Recipe, members: Sequence[Members], samples: int) -> Workload:
    """The workload of a recipe on so many samples like these.

    A checkpoint holds weights and two moments (AdamW), and the average where there is one.

    Raises:
        UsageError: FLOPs of this model cannot be counted without running it.
    """
    codec = build_codec(recipe.modality)
    with torch.device("meta"):
        encoder = build_encoder(spec_of(recipe))
    if not encoder.preprocess.ready:
        encoder.preprocess.fit(codec.decode(one) for one in members)
    with torch.device("meta"):
        objective = build_objective(recipe.objective, encoder)
    shown = members[:_SHOWN]
    generator = torch.Generator().manual_seed(0)
    prepared, began, count = [], time.process_time(), 0
    for one in itertools.cycle(shown):
        sample = objective.prepare(codec.decode(one), encoder.preprocess, generator)
        prepared.append(sample)
        count += 1
        if count >= len(shown) and time.process_time() - began > _SECONDS:
            break
    seconds = (time.process_time() - began) / count
    batch = encoder.preprocess.collate(prepared[: max(2, len(shown))])
    train, parameters = recipe.train, _count(encoder, objective)
    copies = 3 + (train.ema is not None)
    return Workload(
        batch_size=train.batch_size,
        steps=train.total_steps(samples),
        flops=_flops(encoder, objective, batch) / max(2, len(shown)),
        sample_bytes=float(np.mean([sum(map(len, one.values())) for one in members])),
        sample_seconds=seconds,
        gradient_bytes=_FLOAT * parameters,
        checkpoint_bytes=_FLOAT * copies * parameters,
        save_every=train.save_every,
    )


def _count(encoder: Encoder, objective: Objective) -> int:
    modules = nn.ModuleList([encoder, objective])
    return sum(p.numel() for p in modules.parameters() if p.requires_grad)


def _flops(encoder: Encoder, objective: Objective, batch: Batch) -> int:
    found = ForwardFlops(encoder, objective)(batch)
    if found is None:
        raise UsageError("the FLOPs of this model depend on its values: no plan without a run")
    return found
