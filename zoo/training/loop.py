"""The training loop: knows an encoder, an objective and batches, and nothing of any modality.

A step: fetch this process's micro-batches, weigh each by its share of the targets of all processes,
forward and backward, clip, update, average, count. What a run needs to continue is saved together,
so that a resumed run ends with the same bits as one that was never stopped (same machine, threads
and processes).
"""

import json
import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel

from zoo.data.loader import Batch, Loader
from zoo.errors import NonFiniteError, Preempted, ZooError
from zoo.files import write_atomic
from zoo.modalities.contracts import Encoder, to_device
from zoo.objectives.contract import Losses, Objective
from zoo.registry.recipe import TrainRecipe
from zoo.training.checkpoint import Checkpoints
from zoo.training.ema import averaged
from zoo.training.meter import Meter
from zoo.training.metrics import Reporter, Silent
from zoo.training.nonfinite import NonFinite, Verdict
from zoo.training.optim import build_optimizers
from zoo.training.profile import profiled
from zoo.training.schedule import build_schedule
from zoo.training.state import RunState, fresh_noise
from zoo.training.world import World
from zoo.training.wrap import Step, delayed_sync, divide, is_divided, prepared, uncompiled, wrapped

__all__ = ["Trainer"]

_log = logging.getLogger("zoo")
_COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch")


class Trainer:
    """One run. `train` goes from where the folder's newest checkpoint stands to the end.

    Attributes:
        step: optimiser steps done.
        position: samples taken, over all epochs and processes.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        loader: Loader,
        recipe: TrainRecipe,
        folder: Path,
        *,
        world: World,
    ) -> None:
        """Puts the modules on the device and takes the newest checkpoint, if there is one.

        Args:
            encoder: what is trained.
            objective: the pretext task, with heads that are trained along.
            loader: gives the micro-batches of each step.
            recipe: optimisation.
            folder: of the run; checkpoints and logs go there.
            world: this process among those that train together.

        Raises:
            IntegrityError: there are checkpoints and none is whole.
            UsageError: a checkpoint is of another model or of other data.
        """
        self.loader, self.recipe, self.folder, self.world = loader, recipe, folder, world
        self.device = world.device
        self.pair = Step(encoder, objective).to(self.device)
        self.encoder, self.objective = encoder, objective
        self.ema: AveragedModel | None = None
        if recipe.ema is not None:
            self.ema = averaged(encoder, recipe.ema, warmup=recipe.ema_warmup)
            if is_divided(recipe, self.pair, world):
                divide(self.ema.module, recipe, world)
        self.meter = Meter(encoder, objective, world)
        prepared(self.pair, recipe)
        self.model = wrapped(self.pair, recipe, world)
        self.optimizers = build_optimizers(self.pair.named_parameters(), recipe)
        samples = len(loader.shards)
        self.total, self.schedule = recipe.total_steps(samples), build_schedule(recipe, samples)
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            keep=recipe.keep,
            world=world,
            keep_every=recipe.keep_every,
            keep_best=recipe.keep_best,
            background=recipe.save_in_background,
        )
        self.state = RunState(
            pair=self.pair,
            optimizers=self.optimizers,
            ema=self.ema,
            loader=loader,
            world=world,
            checkpoints=self.checkpoints,
            where=str(folder),
        )
        self.step = self.position = self._saved = 0
        self.nonfinite = NonFinite(recipe.on_nonfinite)
        self._compiles = recipe.compile
        self._loss = math.inf  # the last one that was logged
        self._asked: str | None = None  # the signal that came to this process
        self._stop: str | None = None  # what all processes agreed to stop for
        if world.size > 1:
            fresh_noise(loader.seed, 0, world.rank)
        self._resume()

    @property
    def result(self) -> Encoder:
        """The encoder to use: the average where one is kept."""
        module = self.encoder if self.ema is None else self.ema.module
        assert isinstance(module, Encoder)
        return module

    def train(self, *, progress: bool = True, profile: bool = False) -> None:
        """Runs to the last step.

        Args:
            progress: show it on stderr.
            profile: write where the time of ten steps goes into the run's `profile` folder.

        Raises:
            Preempted: SIGINT or SIGTERM came to any process; the state is saved.
            NonFiniteError: losses or gradients were not finite too often; the last checkpoint is
                from before.
            DataError, WorkerError: the data cannot be read; the state is saved.
            StorageError: the disk is full.
        """
        recipe = self.recipe
        self.model.train()
        reporter: Reporter | Silent = Silent()
        if self.world.is_main:
            start = self.step
            reporter = Reporter(
                self.folder,
                total=self.total,
                start=start,
                loggers=recipe.loggers,
                progress=progress,
            )
        traced = profiled(self.folder / "profile", profile and self.world.is_main)
        with reporter, self._signals(), traced as tick:
            while self.step < self.total:
                self._stretch(reporter, tick)
        self.checkpoints.wait()

    def _stretch(self, reporter: Reporter | Silent, tick: Callable[[], None]) -> None:
        """Steps to the end, or until the data have to be taken up elsewhere."""
        recipe, due = self.recipe, False
        self.meter.begin()
        with closing(self.loader.iterate(self.position)) as batches:
            while self.step < self.total:
                with self.meter.waiting():
                    micro = self._next(batches)
                self.meter.take(micro)
                values, verdict = self._update(micro)
                if verdict == "rollback":
                    self._roll_back()
                    return
                self.position += recipe.batch_size
                self.step += 1
                self.meter.add(values, made=verdict == "go")
                last = self.step == self.total
                if self.step % recipe.log_every == 0 or last:
                    reporter.log(self._row())
                due |= self.step % recipe.save_every == 0 or last or self._stop is not None
                # Amid bad updates nobody knows yet whether the weights are good.
                if due and self.nonfinite.in_a_row == 0:
                    self._save()
                    due = False
                tick()
                if self._stop and not last:
                    self.checkpoints.wait()
                    raise Preempted(
                        f"{self.folder}: stopped by {self._stop} at step {self.step}, state saved; "
                        "the same command continues"
                    )

    def _next(self, batches: Iterator[list[Batch]]) -> list[Batch]:
        """The next step's micro-batches; what was trained so far is saved if there are none."""
        try:
            return next(batches)
        except ZooError:
            # Saving takes all processes, and the others have their batch.
            if self.step > self._saved and self.world.size == 1:
                self._save()
                self.checkpoints.wait()
            raise

    def learning_rate(self, step: int) -> float:
        """Of the 0-based step."""
        return self.schedule(step)

    def _update(self, micro: list[Batch]) -> tuple[dict[str, Tensor], Verdict]:
        """One optimiser step; its detached numbers, and whether it was made."""
        values = self._gradients(micro)
        limit = self.recipe.clip_grad or math.inf
        norm = clip_grad_norm_(self.pair.parameters(), limit).detach()
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        # Sums over processes are taken when they are logged; this is the same on all of them.
        values["grad_norm"] = norm / self.world.size
        finite = bool(norm.isfinite() & values["loss"].isfinite())
        finite = self.world.total([not finite])[0] == 0
        verdict = self.nonfinite.judge(self.step, is_finite=finite)
        if verdict == "stop":
            self._give_up(values)
        if verdict == "go":
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate(self.step) * group.get("lr_scale", 1.0)
                optimizer.step()
            self.objective.after_step()
            if self.ema is not None:
                self.ema.update_parameters(self.encoder)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return values, verdict

    def _gradients(self, micro: list[Batch]) -> dict[str, Tensor]:
        """Forward and backward of all micro-batches; this process's share of every number."""
        counts = [self.objective.count(batch) for batch in micro]
        targets, asked = self.world.total([sum(counts), self._asked is not None])
        if asked:
            self._stop = self._asked or "a signal to another process"
        # Where parameters are divided, every process must do as many passes as the others.
        passes = self.world.most(len(micro))
        values: dict[str, Tensor] = {}
        for number in range(passes):
            batch = micro[min(number, len(micro) - 1)]
            count = counts[number] if number < len(counts) else 0
            share = count / max(1, targets)
            with delayed_sync(self.model, last=number == passes - 1):
                with self._autocast():
                    losses = self._forward(to_device(batch, self.device))
                # Gradients are averaged over the processes: the sum is what is wanted.
                (losses.total * (share * self.world.size)).backward()
            named = {"loss": losses.total, **losses.parts, **losses.metrics}
            for name, value in named.items():
                values[name] = values.get(name, 0.0) + value.detach() * share
        return values

    def _forward(self, batch: Batch) -> Losses:
        """The losses; where compiling fails, so does not the run."""
        try:
            return self.model(batch)
        except Exception as error:
            if self._compiles and type(error).__module__.startswith(_COMPILER):
                self._compiles = False
                uncompiled(self.pair)
                reason = str(error).strip().partition("\n")[0]
                _log.warning("torch.compile failed (%s); the run goes on without it", reason)
                return self.model(batch)
            raise

    def _give_up(self, values: dict[str, Tensor]) -> None:
        """Leaves what is needed to find the reason."""
        norms = {
            name: float(parameter.grad.float().norm())
            for name, parameter in self.pair.named_parameters()
            if parameter.grad is not None and not isinstance(parameter.grad, DTensor)
        }
        if self.world.is_main:
            ids = self.loader.order.ids(
                np.arange(self.position, self.position + self.recipe.batch_size)
            )
            found = {
                "step": self.step,
                "position": self.position,
                "loss": float(values["loss"]),
                "gradient_norms": {name: norm for name, norm in norms.items() if norm},
                "samples": [str(self.loader.shards.where(int(i))) for i in ids[:1000]],
            }
            write_atomic(self.folder / "postmortem.json", json.dumps(found, indent=1) + "\n")
        raise NonFiniteError(
            f"{self.folder}: the loss or its gradient is not finite at step {self.step + 1}; the "
            "last checkpoint is from before, postmortem.json names the batch. Try a lower "
            "train.lr or train.clip_grad=1"
        )

    def _roll_back(self) -> None:
        """To the last checkpoint, and on behind the batches that did the harm."""
        behind, counts = self.position + self.recipe.batch_size, asdict(self.nonfinite)
        self.checkpoints.wait()
        if not self._resume():
            raise NonFiniteError(
                f"{self.folder}: the loss or its gradient is not finite by step {self.step + 1}, "
                "before the first checkpoint. Try a lower train.lr or train.clip_grad=1"
            )
        self.nonfinite = NonFinite(**counts)
        self.position = behind
        _log.warning("%s: not finite; back to step %d, on with other data", self.folder, self.step)

    def _row(self) -> dict[str, float]:
        bad, *_ = self.world.total([self.loader.quarantine.counts.total()])
        row = {
            "step": self.step,
            **self.meter.row(self.recipe.batch_size),
            "lr": self.learning_rate(self.step - 1),
            "bad_samples": bad,
            "skipped_steps": float(self.nonfinite.skipped),
        }
        self._loss = row.get("loss", math.nan)
        return row

    def _save(self) -> None:
        facts: dict[str, object] = {
            "loss": self._loss if math.isfinite(self._loss) else None,
            "nonfinite": asdict(self.nonfinite),
        }
        self.state.save(self.step, facts, self.position)
        self._saved = self.step

    def _resume(self) -> bool:
        """From the newest checkpoint, if there is one."""
        newest = self.checkpoints.newest()
        if newest is None:
            return False
        self.position = self.state.restore(newest)
        counts = newest.state["nonfinite"]
        assert isinstance(counts, dict)
        self.nonfinite = NonFinite(**counts | {"policy": self.recipe.on_nonfinite})
        self.step = self._saved = newest.step
        return True

    def _autocast(self) -> torch.autocast:
        precision = self.recipe.precision
        wanted = precision == "bfloat16" or (precision == "auto" and self.device.type == "cuda")
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks for a stop after a step; a second Ctrl-C stops at once.

        SIGTERM may come several times, from a scheduler and from torchrun, and means the same.
        """

        def ask(number: int, frame: FrameType | None) -> None:
            if self._asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._asked = self._asked or signal.Signals(number).name

        try:
            before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: then signals are somebody else's business
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
