"""The run that tests share among several processes."""

import numpy as np
import torch
from zoo.modalities.vision.codec import VisionCodec

import zoo
from zoo.training.metrics import read_metrics

__all__ = ["OPTIONS", "Enough", "curve", "exported", "train", "train_until", "written"]

STEPS = 8
OPTIONS = {
    "encoder.dim": 24, "encoder.depth": 2, "encoder.drop_path": 0, "objective.decoder_dim": 16,
    "train.steps": STEPS, "train.batch_size": 24, "train.warmup": 2, "train.log_every": 1,
    "train.optimizer": "adamw", "train.lr": 1e-3, "train.ema": 0.9, "train.timeout": 20,
    "loader.workers": 0, "train.loggers": [],
}  # fmt: skip


def written(folder):
    """Shards of 120 noise images."""
    codec, rng = VisionCodec(), np.random.default_rng(0)
    items = (
        (f"{i:04d}", codec.encode({"image": rng.integers(0, 256, (8, 8), dtype=np.uint8)}))
        for i in range(120)
    )
    zoo.write_shards(items, folder, samples_per_shard=40)
    return folder


def train(shards, out, options):
    run = zoo.pretrain(
        "digits-mae", shards, out, OPTIONS | options, seed=3, device="cpu", progress=False
    )
    return run.finished


def curve(out):
    return np.array([[row["loss"], row["grad_norm"]] for row in read_metrics(out)])


def exported(out):
    weights = zoo.load(out).state_dict()
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


class Enough(Exception):  # noqa: N818 - nothing went wrong
    pass


def train_until(shards, out, options, step):
    """Ends without a word after a checkpoint, as if it were killed."""
    from zoo.training.state import RunState

    real = RunState.save

    def save(self, at, *args):
        real(self, at, *args)
        if at == step:
            raise Enough

    RunState.save = save
    return train(shards, out, options)
