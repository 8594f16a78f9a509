"""The training loop: knows an encoder, an objective and batches, and nothing of any modality.

A step: fetch all micro-batches, weigh each by its number of targets, forward and backward, clip,
update, average, count. What a run needs to continue is saved together, so that a resumed run ends
with the same bits as one that was never stopped (same machine, same number of threads).
"""

import math
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.data.loader import Batch, Loader
from zoo.errors import NonFiniteError, Preempted, UsageError, ZooError
from zoo.modalities.contracts import Encoder, to_device
from zoo.objectives.contract import Objective
from zoo.registry.recipe import TrainRecipe
from zoo.training.checkpoint import Checkpoint, Checkpoints
from zoo.training.metrics import Reporter
from zoo.training.optim import build_optimizers
from zoo.training.schedule import cosine_with_warmup

__all__ = ["Trainer"]


@dataclass
class _Window:
    """Sums since the last logged step."""

    steps: int = 0
    waited: float = 0.0
    began: float = field(default_factory=time.perf_counter)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, values: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value


class Trainer:
    """One run. `train` goes from where the folder's newest checkpoint stands to the end."""

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        loader: Loader,
        recipe: TrainRecipe,
        folder: Path,
        *,
        device: torch.device,
    ) -> None:
        """Puts the modules on the device and takes the newest checkpoint, if there is one.

        Args:
            encoder: what is trained.
            objective: the pretext task, with heads that are trained along.
            loader: gives the micro-batches of each step.
            recipe: optimisation.
            folder: of the run; checkpoints and logs go there.
            device: where to compute.

        Raises:
            IntegrityError: there are checkpoints and none is whole.
            UsageError: a checkpoint is of another model.
        """
        self.loader, self.recipe, self.folder, self.device = loader, recipe, folder, device
        self.encoder, self.objective = encoder.to(device), objective.to(device)
        self.model = nn.ModuleDict({"encoder": self.encoder, "objective": self.objective})
        self.optimizers = build_optimizers(self.model.named_parameters(), recipe)
        self.ema: AveragedModel | None = None
        if recipe.ema is not None:
            average = get_ema_multi_avg_fn(recipe.ema)
            self.ema = AveragedModel(encoder, multi_avg_fn=average)
        samples = len(loader.shards)
        self.total, self.warmup = recipe.total_steps(samples), recipe.warmup_steps(samples)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=recipe.keep)
        self.step = self._saved = 0
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self._stop: str | None = None
        if (newest := self.checkpoints.newest()) is not None:
            self._restore(newest)

    @property
    def result(self) -> Encoder:
        """The encoder to use: the average where one is kept."""
        module = self.encoder if self.ema is None else self.ema.module
        assert isinstance(module, Encoder)
        return module

    def train(self, *, progress: bool = True) -> None:
        """Runs to the last step.

        Raises:
            Preempted: SIGINT or SIGTERM came; the state is saved.
            NonFiniteError: the loss or the gradient is not finite; the last checkpoint is from
                before.
            DataError, WorkerError: the data cannot be read; the state is saved.
            StorageError: the disk is full.
        """
        recipe, window = self.recipe, _Window()
        self.model.train()
        with (
            closing(self.loader.iterate(self.step * recipe.batch_size)) as batches,
            Reporter(self.folder, total=self.total, start=self.step, progress=progress) as reporter,
            self._signals(),
        ):
            while self.step < self.total:
                began = time.perf_counter()
                micro = self._next(batches)
                window.waited += time.perf_counter() - began
                window.add(self._update(micro))
                self.step += 1
                last = self.step == self.total
                if self.step % recipe.log_every == 0 or last:
                    reporter.log(self._row(window))
                    window = _Window()
                if self.step % recipe.save_every == 0 or last or self._stop:
                    self._save()
                if self._stop and not last:
                    raise Preempted(
                        f"{self.folder}: stopped by {self._stop} at step {self.step}, state saved; "
                        "the same command continues"
                    )

    def _next(self, batches: Iterator[list[Batch]]) -> list[Batch]:
        """The next step's micro-batches; what was trained so far is saved if there are none."""
        try:
            return next(batches)
        except ZooError:
            if self.step > self._saved:
                self._save()
            raise

    def learning_rate(self, step: int) -> float:
        """Of the 0-based step."""
        return cosine_with_warmup(
            step,
            total=self.total,
            warmup=self.warmup,
            peak=self.recipe.peak_lr,
            low=self.recipe.min_lr,
        )

    def _update(self, micro: list[Batch]) -> dict[str, Tensor]:
        """One optimiser step; returns detached numbers that are still on the device."""
        counts = [self.objective.count(batch) for batch in micro]
        values: dict[str, Tensor] = {}
        for batch, count in zip(micro, counts, strict=True):
            share = count / max(1, sum(counts))
            with self._autocast():
                losses = self.objective(self.encoder, to_device(batch, self.device))
            (losses.total * share).backward()
            named = {"loss": losses.total, **losses.parts, **losses.metrics}
            for name, value in named.items():
                values[name] = values.get(name, 0.0) + value.detach() * share
        limit = self.recipe.clip_grad or math.inf
        values["grad_norm"] = clip_grad_norm_(self.model.parameters(), limit).detach()
        self._check(values)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step) * group.get("lr_scale", 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.objective.after_step()
        if self.ema is not None:
            self.ema.update_parameters(self.encoder)
        return values

    def _check(self, values: dict[str, Tensor]) -> None:
        """On the CPU at once; on a GPU the host would wait, so the flag is read when logging."""
        self.finite &= values["loss"].isfinite() & values["grad_norm"].isfinite()
        if self.device.type == "cpu":
            self._raise_unless_finite()

    def _raise_unless_finite(self) -> None:
        if not self.finite:
            raise NonFiniteError(
                f"{self.folder}: the loss or its gradient is not finite by step {self.step + 1}; "
                "the last checkpoint is from before. Try a lower train.lr or train.clip_grad=1"
            )

    def _row(self, window: _Window) -> dict[str, float]:
        self._raise_unless_finite()
        seconds = max(1e-9, time.perf_counter() - window.began)
        means = {name: float(value) / window.steps for name, value in window.sums.items()}
        return {
            "step": self.step,
            **means,
            "lr": self.learning_rate(self.step - 1),
            "samples_per_second": window.steps * self.recipe.batch_size / seconds,
            "data_wait": window.waited / seconds,
            "bad_samples": float(self.loader.quarantine.counts.total()),
        }

    def _save(self) -> None:
        self._raise_unless_finite()
        names = {id(p): name for name, p in self.model.named_parameters()}
        optim = {
            f"{names[id(p)]}::{key}": torch.as_tensor(value)
            for optimizer in self.optimizers
            for p, state in optimizer.state.items()
            for key, value in state.items()
        }
        tensors = {"model": self.model.state_dict(), "optim": optim, "rng": self._rng()}
        if self.ema is not None:
            tensors["ema"] = self.ema.state_dict()
        state: dict[str, object] = {
            "loader": self.loader.state(self.step * self.recipe.batch_size),
        }
        self.checkpoints.save(Checkpoint(self.step, state, tensors))
        self._saved = self.step

    def _restore(self, checkpoint: Checkpoint) -> None:
        loader = checkpoint.state["loader"]
        assert isinstance(loader, dict)
        self.loader.restore(loader)
        try:
            self.model.load_state_dict(checkpoint.tensors["model"])
            if self.ema is not None:
                self.ema.load_state_dict(checkpoint.tensors["ema"])
        except (RuntimeError, KeyError):
            raise UsageError(
                f"{self.folder}: its checkpoint is of a model of another shape; choose another out"
            ) from None
        parameters = dict(self.model.named_parameters())
        owner = {
            id(p): optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }
        for name, value in checkpoint.tensors["optim"].items():
            parameter, _, key = name.partition("::")
            p = parameters[parameter]
            owner[id(p)].state[p][key] = value.to(p.device)
        torch.set_rng_state(checkpoint.tensors["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in checkpoint.tensors["rng"]:
            torch.cuda.set_rng_state(checkpoint.tensors["rng"]["cuda"])
        self.step = self._saved = checkpoint.step

    def _rng(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state()
        return states

    def _autocast(self) -> torch.autocast:
        precision = self.recipe.precision
        wanted = precision == "bfloat16" or (precision == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks for a stop after this step; the second stops at once."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = signal.Signals(number).name

        try:
            before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: then signals are somebody else's business
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
