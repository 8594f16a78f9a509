"""What the training engine adds to a step, and what a checkpoint costs.

The loop: blocks of steps of `Trainer` against blocks of a bare loop (forward, backward, clip,
update), in turn in one process, on the same batches in memory and one thread; logging included.
Target: <= 2 % of a step of about 50 ms. On a shared machine the clock on the wall is noisy, so the
processor's time is compared too, and a small model, where what is added stands out.

The checkpoint: 100 million parameters with both moments of Adam, 1.2 GB, written and synced by
`Checkpoints.save` (with a digest of every file), torch.save and torch.distributed.checkpoint; and
how long training waits where it is written in the background. Target: <= 30 % of the time that it
takes to write it.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from itertools import count, cycle
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.nn.utils import clip_grad_norm_
from zoo.benchmarks.speed.timing import alternate, report
from zoo.modalities.contracts import Batch, Encoder
from zoo.modalities.vision.codec import VisionCodec
from zoo.objectives.contract import Objective
from zoo.registry.build import Spec, build_encoder, build_objective, resolve_recipe
from zoo.registry.recipe import Recipe

import zoo
from zoo.data.loader import Loader
from zoo.data.shards import ShardSet
from zoo.training.checkpoint import Checkpoint, Checkpoints
from zoo.training.loop import Trainer
from zoo.training.optim import build_optimizers
from zoo.training.world import ALONE

BLOCKS, STEPS = 25, 10  # of which one logs
MODEL = (
    *("encoder.dim=192", "encoder.depth=4", "encoder.heads=3", "encoder.drop_path=0"),
    *("objective.decoder_dim=96", "objective.decoder_depth=2", "objective.decoder_heads=3"),
    *("train.batch_size=20", "train.warmup=10", "train.log_every=10", "train.precision=float32"),
    "train.optimizer=adamw",
    *("train.save_every=1000000", f"train.steps={(BLOCKS + 1) * STEPS + 1}"),
)
MODELS = {"50ms": (), "small": ("train.batch_size=2", "encoder.dim=24", "encoder.heads=2")}
PARAMETERS, MATRICES, ROUNDS = 100_000_000, 50, 3
PLACES = {"tmpfs": "/dev/shm", "disk": None}  # None: where temporary files go


def pair(recipe: Recipe) -> tuple[Encoder, Objective]:
    """The same encoder and objective each time."""
    torch.manual_seed(0)
    spec = Spec(
        name=recipe.model,
        modality=recipe.modality,
        encoder=recipe.encoder,
        preprocess=recipe.preprocess,
    )
    encoder = build_encoder(spec)
    return encoder.train(), build_objective(recipe.objective, encoder).train()


def bare(recipe: Recipe) -> Callable[[Batch], None]:
    """A step without an engine."""
    encoder, objective = pair(recipe)
    model = nn.ModuleDict({"encoder": encoder, "objective": objective})
    parameters = list(model.parameters())
    optimizers = build_optimizers(model.named_parameters(), recipe.train)

    def step(batch: Batch) -> None:
        objective(encoder, batch).total.backward()
        clip_grad_norm_(parameters, float("inf"))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def clocks() -> Tensor:
    """Seconds on the wall, and of this process's threads on the processor."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def overhead(folder: Path, options: tuple[str, ...]) -> dict[str, list[Tensor]]:
    """Both clocks a step, block by block; what stands in for the loader switches and times."""
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 256, (8, 8), dtype=np.uint8) for _ in range(64))
    codec = VisionCodec()
    zoo.write_shards(
        ((f"{i:03d}", codec.encode({"image": image})) for i, image in enumerate(images)),
        folder / "shards",
    )
    recipe = resolve_recipe("digits-mae", str(folder / "shards"), (*MODEL, *options))
    (encoder, objective), step = pair(recipe), bare(recipe)
    loader = Loader(
        shards=ShardSet(folder / "shards"),
        decode=codec.decode,
        prepare=lambda sample, generator: objective.views(
            encoder.preprocess.augment(sample, generator), generator
        ),
        collate=encoder.preprocess.collate,
        batch_size=recipe.train.batch_size,
        recipe=recipe.loader,
        seed=0,
    )
    stream = loader.iterate(0)
    batches = cycle([next(stream)[0] for _ in range(4)])
    stream.close()
    seconds: dict[str, list[Tensor]] = {"bare loop": [], "zoo": []}

    def turns(loader: Loader, position: int) -> Generator[list[Batch]]:
        for block in range(BLOCKS + 1):
            began = clocks()
            for _ in range(STEPS):
                yield [next(batches)]  # the trainer works until it asks for the next
            middle = clocks()
            for _ in range(STEPS):
                step(next(batches))
            if block:
                seconds["zoo"].append((middle - began) / STEPS)
                seconds["bare loop"].append((clocks() - middle) / STEPS)
        yield [next(batches)]

    with patch.object(Loader, "iterate", turns):
        trainer = Trainer(encoder, objective, loader, recipe.train, folder / "run", world=ALONE)
        trainer.train(progress=False)
    return seconds


def state() -> dict[str, dict[str, Tensor]]:
    """Weights and moments, 1.2 GB."""
    shape = (PARAMETERS // MATRICES // 1000, 1000)
    names = [f"blocks.{i}.weight" for i in range(MATRICES)]
    model = {name: torch.rand(shape) for name in names}
    moments = ("exp_avg", "exp_avg_sq")
    optim = {f"{name}::{moment}": torch.rand(shape) for name in names for moment in moments}
    return {"model": model, "optim": optim}


def writers(
    tensors: Mapping[str, dict[str, Tensor]], folder: Path
) -> dict[str, Callable[[], object]]:
    """Ways to have it on the disk; each replaces what it wrote before."""
    checkpoints, steps = Checkpoints(folder / "zoo", keep=1), count(1)
    sharded = FileSystemWriter(folder / "sharded", overwrite=True)

    def by_torch() -> None:
        with (folder / "state.pt").open("wb") as file:
            torch.save(tensors, file)
            os.fsync(file.fileno())

    return {
        "torch.save": by_torch,
        "torch.distributed.checkpoint": lambda: save_sharded(
            dict(tensors), storage_writer=sharded, no_dist=True
        ),
        "zoo": lambda: checkpoints.save(Checkpoint(next(steps), {}, dict(tensors))),
    }


def waits(tensors: dict[str, dict[str, Tensor]], folder: Path) -> dict[str, list[float]]:
    """Seconds of a save that training waits for, and until one in the background is written."""
    plain = Checkpoints(folder / "plain", keep=1)
    behind = Checkpoints(folder / "behind", keep=1, background=True)
    seconds: dict[str, list[float]] = {name: [] for name in ("written", "waited", "until written")}
    for step in range(ROUNDS + 1):
        checkpoint = Checkpoint(step, {}, tensors)
        began = time.perf_counter()
        plain.save(checkpoint)
        written = time.perf_counter()
        behind.save(checkpoint)
        copied = time.perf_counter()
        behind.wait()
        if step:  # the first one touches memory that the others find
            seconds["written"].append(written - began)
            seconds["waited"].append(copied - written)
            seconds["until written"].append(time.perf_counter() - written)
    return seconds


def main() -> None:
    """The loop, then checkpoints in memory and on the disk."""
    torch.set_num_threads(1)
    loops()
    checkpoints()


def loops() -> None:
    """What the engine adds to a step."""
    for size, options in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = overhead(Path(folder), options)
        for column, clock in enumerate(("wall", "processor")):
            times = {name: [float(t[column]) for t in rows] for name, rows in seconds.items()}
            report(f"engine_{size}_{clock}", times, base="bare loop")
            pairs = list(zip(times["zoo"], times["bare loop"], strict=True))
            added = statistics.median(ours - plain for ours, plain in pairs)
            share = statistics.median(ours / plain for ours, plain in pairs) - 1
            print(f"{clock}: the loop adds {added * 1e3:.2f} ms, {share:.1%}")


def checkpoints() -> None:
    """What it costs to save, and to save in the background."""
    tensors = state()
    for place, parent in PLACES.items():
        print(f"1.2 GB to {place}")
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            times = alternate(writers(tensors, Path(folder)), ROUNDS)
        report(f"checkpoint_{place}", times, base="torch.save")
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            report(f"checkpoint_background_{place}", waits(tensors, Path(folder)), base="written")


if __name__ == "__main__":
    main()
