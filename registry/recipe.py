"""How to pretrain: the part of a card that a run resolves, stores and can repeat."""

from dataclasses import dataclass, field
from typing import Literal

from zoo.registry.schema import Value

__all__ = ["CardRecipe", "LoaderRecipe", "Recipe", "TrainRecipe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderRecipe:
    """How samples reach the training loop; their order depends on block, pool and lanes only."""

    workers: int | None = None  # that decode; by default as many as pay on this machine
    worker_kind: Literal["process", "thread"] = "process"  # threads for decoders without the GIL
    start: Literal["fork", "forkserver", "spawn"] | None = None  # of processes; the system's way
    prefetch: int = 2  # micro-batches that each worker has ready
    timeout: float = 300.0  # seconds without a batch after which workers count as hung
    block: int = 64  # neighbouring samples that are read together
    pool: int = 65_536  # samples of a lane that are shuffled together
    lanes: int = 1  # independent streams; 48 or 64 for remote shards
    tokens: int | None = None  # most tokens of a micro-batch, instead of train.accumulate
    on_bad: Literal["substitute", "raise"] = "substitute"  # another sample, or an error
    max_bad: float = 0.001  # share of bad samples that stops the run
    require: tuple[str, ...] = ()  # members without which a sample is bad
    view: str | None = None  # a file that says which samples to use (zoo.data.selecting.view)
    allow_missing: bool = False  # leave out shards that are no tars

    def __post_init__(self) -> None:
        if min(self.block, self.pool, self.lanes, self.prefetch) < 1:
            raise ValueError("block, pool, lanes and prefetch must be at least 1")
        if (self.workers or 0) < 0 or self.timeout <= 0 or not 0 <= self.max_bad <= 1:
            raise ValueError("workers and timeout must be positive, max_bad between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """Optimisation. Exactly one of `steps` and `epochs`, exactly one of `lr` and `base_lr`."""

    batch_size: int  # samples of one optimiser step, over all ranks and micro-batches
    steps: int | None = None
    epochs: float | None = None
    warmup: float = 0.0  # linear from 0, in the unit of the length (steps or epochs)
    lr: float | None = None  # peak
    base_lr: float | None = None  # peak for 256 samples; scaled by batch_size / 256
    min_lr: float = 0.0  # end of the half cosine
    # muon: hidden matrices by Muon, everything else by AdamW, at the same learning rate.
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.05  # not on one-dimensional parameters
    betas: tuple[float, float] = (0.9, 0.999)
    clip_grad: float | None = None  # largest norm of the whole gradient
    accumulate: int = 1  # micro-batches of one step
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 autocast on CUDA
    ema: float | None = None  # decay of an averaged copy of the encoder, which is then exported
    log_every: int = 10  # steps
    save_every: int = 500  # steps
    keep: int = 2  # checkpoints

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if (self.lr is None) == (self.base_lr is None):
            raise ValueError("give exactly one of lr and base_lr")
        if self.batch_size < 1 or self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a positive multiple of accumulate "
                f"{self.accumulate}"
            )
        if min(self.log_every, self.save_every) < 1 or self.keep < 1:
            raise ValueError("log_every, save_every and keep must be at least 1")

    @property
    def peak_lr(self) -> float:
        """The largest learning rate."""
        if self.lr is not None:
            return self.lr
        assert self.base_lr is not None
        return self.base_lr * self.batch_size / 256

    def total_steps(self, samples: int) -> int:
        """Optimiser steps for a data set of `samples`."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * samples / self.batch_size))

    def warmup_steps(self, samples: int) -> float:
        """Length of the warm-up in steps."""
        return self.warmup * (1 if self.steps is not None else samples / self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardRecipe:
    """The recipe as a card states it."""

    objective: dict[str, Value]  # `name` and arguments
    train: TrainRecipe
    loader: LoaderRecipe = field(default_factory=LoaderRecipe)

    def __post_init__(self) -> None:
        if "name" not in self.objective:
            raise ValueError("recipe.objective.name is missing: which objective is it?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The recipe as a run resolves it: nothing is left to defaults, and `config.toml` holds it."""

    model: str
    data: str
    modality: str
    encoder: dict[str, Value]
    preprocess: dict[str, Value]
    objective: dict[str, Value]
    train: TrainRecipe
    loader: LoaderRecipe
    seed: int = 0
