"""Small shards whose samples are numbers, and a loader over them."""

import os
import signal
import time
from dataclasses import dataclass

import torch
from zoo.registry.recipe import LoaderRecipe

from zoo.data.building.build import write_shards
from zoo.data.loader import Loader
from zoo.data.shards import ShardSet
from zoo.errors import DataError


def numbers(count, special=()):
    """Samples 0, 1, ... as text; `special` maps some of them to other bytes."""
    special = dict(special)
    return [(f"{i:05d}", {"txt": special.get(i, str(i).encode())}) for i in range(count)]


def decode(members):
    text = bytes(members["txt"])
    if text == b"broken":
        raise DataError("no good")
    if text == b"deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == b"endless":
        time.sleep(60)
    return {"value": int(text)}


def prepare(sample, generator):
    return {"value": torch.tensor(sample["value"]), "chance": torch.rand(2, generator=generator)}


def collate(samples):
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def length(sample):
    return int(sample["value"]) % 7 + 1


@dataclass
class Make:
    """Loaders over one folder that differ in what is given."""

    folder: object
    batch: int = 5

    def __call__(self, workers=0, seed=0, **options):
        ours = {name: options.pop(name) for name in ("rank", "world", "accumulate", "quarantine")
                if name in options}  # fmt: skip
        recipe = {"block": 4, "pool": 16} | options
        return Loader(
            shards=ShardSet(self.folder),
            decode=decode,
            prepare=prepare,
            collate=collate,
            length=length,
            batch_size=self.batch,
            recipe=LoaderRecipe(workers=workers, **recipe),
            seed=seed,
            **ours,
        )


def make_shards(folder, samples, samples_per_shard=9):
    write_shards(samples, folder, samples_per_shard=samples_per_shard)
    return Make(folder)


def take(loader, steps, position=0):
    """The first steps from a position, each a list of micro-batches."""
    iterator = loader.iterate(position)
    try:
        return [next(iterator) for _ in range(steps)]
    finally:
        iterator.close()


def same(left, right):
    """Whether two lists of steps are equal, bit for bit."""
    flat = [[batch for step in steps for batch in step] for steps in (left, right)]
    return len(flat[0]) == len(flat[1]) and all(
        torch.equal(a[name], b[name]) for a, b in zip(*flat, strict=True) for name in a
    )


def values(steps):
    """Values of all samples in the order of training."""
    return torch.cat([batch["value"] for step in steps for batch in step]).tolist()
