"""How to pretrain: the part of a card that a run resolves, stores and can repeat."""

from dataclasses import dataclass, field
from itertools import pairwise
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
    # linear from 0 to the peak; like all lengths below in the unit of the length (steps or epochs)
    warmup: float = 0.0
    lr: float | None = None  # peak
    base_lr: float | None = None  # peak for 256 samples; scaled by batch_size / 256
    min_lr: float = 0.0  # where it ends, but for `constant`
    # After the warm-up: half a cosine or a line to the end; the peak, or its fall with
    # 1 / sqrt(step), and then an anneal (wsd, rsqrt); infinite: a cosine to `constant_lr`, which
    # stays for as long as there are data, and where a model is wanted, an anneal.
    schedule: Literal["cosine", "linear", "constant", "wsd", "rsqrt", "infinite"] = "cosine"
    anneal: float = 0.0  # length of the last stretch of wsd, rsqrt and infinite, down to min_lr
    anneal_shape: Literal["linear", "cosine", "1-sqrt", "exponential", "exp"] = "1-sqrt"
    cooldown: float = 0.0  # infinite: length of the cosine from the peak to constant_lr
    constant_lr: float | None = None
    restarts: tuple[float, ...] = ()  # when the whole schedule begins again, for more data
    first_update: Literal[0, 1] = 0  # counts as in timm, whose first rate is 0; 1: as in torchtitan
    # adamw-amsgrad: second moments never fall. muon, galore, conda: hidden matrices by these,
    # everything else by AdamW, at the same learning rate. Or any name that
    # timm.optim.create_optimizer_v2 knows.
    optimizer: str = "adamw"
    weight_decay: float = 0.05  # not on norms, biases, embeddings, position tables and tokens
    layer_decay: float | None = None  # of the rate, from each layer of the encoder to the one below
    betas: tuple[float, ...] | None = None  # like momentum and eps by default the optimiser's own
    momentum: float | None = None
    eps: float | None = None
    projection_rank: int | None = None  # galore, conda: of the basis, by default the whole one
    projection_gap: int | None = None  # updates between two bases: 200 for galore, 2000 for conda
    clip_grad: float | None = None  # largest norm of the whole gradient
    accumulate: int = 1  # micro-batches of one step
    init: str | None = None  # weights to start from: a file, or a run or export folder
    # auto: bfloat16 autocast on CUDA; fp8: linear layers of the blocks in float8 besides (Hopper)
    precision: Literal["auto", "float32", "bfloat16", "fp8"] = "auto"
    ema: float | None = None  # decay of an averaged copy of the encoder, which is then exported
    ema_warmup: bool = False  # a decay that grows from 0 to `ema`: early weights are soon forgotten
    # Several processes share a step (torchrun). auto: each holds the whole model below 300 million
    # parameters (ddp), its part above (fsdp); hsdp: parts within a node, copies across.
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    checkpoint_activations: bool = False  # compute each block twice instead of keeping it
    compile: bool = False  # each block, by torch.compile
    # Seconds after which a process that does not answer counts as dead; saving must be faster.
    timeout: float = 600.0
    # Steps after which processes that hold the whole model each compare their weights, as they also
    # do before saving: a fault of memory is found while the last checkpoint is good.
    compare_every: int | None = None
    on_nonfinite: Literal["skip", "stop"] = "skip"  # skip, then back to a checkpoint, then stop
    loggers: tuple[str, ...] = ("tensorboard",)  # besides metrics.jsonl: wandb, mlflow, trackio
    log_every: int = 10  # steps
    save_every: int = 500  # steps
    save_in_background: bool = False  # while training goes on; pays above a billion parameters
    keep: int = 2  # checkpoints, the newest
    keep_every: int | None = None  # steps; these stay too
    keep_best: bool = False  # and the one with the lowest loss

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
        if min(self.log_every, self.save_every, self.keep, self.compare_every or 1) < 1:
            raise ValueError("log_every, save_every, compare_every and keep must be at least 1")
        self._check_optimisation()
        self._check_schedule()

    def _check_optimisation(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas or ()):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if min(self.projection_rank or 1, self.projection_gap or 1) < 1:
            raise ValueError("projection_rank and projection_gap must be at least 1")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}")
        if self.ema_warmup and self.ema is None:
            raise ValueError("ema_warmup needs ema")

    def _check_schedule(self) -> None:
        """Each option belongs to the schedules that know it; stretches fit into the length."""
        name, length = self.schedule, self.steps if self.steps is not None else self.epochs
        assert length is not None
        if bool(self.anneal) > (name in ("wsd", "rsqrt", "infinite")):
            raise ValueError(f"schedule {name!r} has no anneal; wsd, rsqrt and infinite have one")
        if name == "wsd" and not self.anneal:
            raise ValueError("schedule 'wsd' needs anneal, the length of its decay")
        if self.anneal and self.anneal_shape == "exponential" and self.min_lr <= 0:
            raise ValueError("anneal_shape 'exponential' never reaches 0: give a min_lr above it")
        infinite = name == "infinite"
        if infinite != (self.constant_lr is not None) or bool(self.cooldown) != infinite:
            raise ValueError("schedule 'infinite', and no other, needs constant_lr and cooldown")
        if name == "rsqrt" and not self.warmup:
            raise ValueError("schedule 'rsqrt' needs a warmup, which is also its time scale")
        if self.restarts and self.first_update:
            raise ValueError("restarts need first_update=0")
        ends = (0, *self.restarts, length)
        shortest = min(end - begin for begin, end in pairwise(ends))
        stretches = self.cooldown + self.anneal
        if shortest <= 0 or (stretches and self.warmup + stretches > shortest):
            raise ValueError(
                f"warmup {self.warmup:g}, cooldown {self.cooldown:g} and anneal {self.anneal:g} "
                f"must fit into {shortest:g}, and restarts ascend below {length:g}"
            )

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

    def steps_per_unit(self, samples: int) -> float:
        """Optimiser steps in one unit of the length."""
        return 1 if self.steps is not None else samples / self.batch_size


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
