"""The training loop: knows an encoder, an objective and batches, and nothing of any modality.

A step: fetch this process's micro-batches, weigh each by its share of the targets of all processes,
forward and backward, clip, update. Whether the update was made is known one step later, so that no
GPU waits for the host: then it enters the average and the counts. What a run needs to continue is
saved together, so that a resumed run ends with the same bits as one that was never stopped (same
machine, threads and processes).
"""

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_
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
from zoo.training.nonfinite import Attempt, Flag, NonFinite, undone_if
from zoo.training.optim import build_optimizers
from zoo.training.precision import use_float8, uses_bfloat16
from zoo.training.profile import profiled
from zoo.training.replicas import Replicas
from zoo.training.schedule import build_schedule
from zoo.training.signals import StopSignals
from zoo.training.state import RunState, fresh_noise
from zoo.training.world import World
from zoo.training.wrap import Step, delayed_sync, divide, is_divided, prepared, uncompiled, wrapped

__all__ = ["Trainer"]

_log = logging.getLogger("zoo")
_COMPILER = ("torch._dynamo", "torch._inductor", "torch._functorch")


class Trainer:
    """One run. `train` goes from where the folder's newest checkpoint stands to the end.

    Attributes:
        step: optimiser steps done, or skipped.
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
        if recipe.precision == "fp8":
            use_float8(self.pair, self.device)
        prepared(self.pair, recipe)
        self.model = wrapped(self.pair, recipe, world)
        self.replicas = Replicas(self.pair, world, recipe.compare_every)
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
        self._parameters = [(n, p) for n, p in self.pair.named_parameters() if p.requires_grad]
        # torch's fused optimisers mask an update where it happens; for others the host must wait.
        self._masks = all(
            getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in self.optimizers
        )
        self._attempt: Attempt | None = None  # the last update, until it is known to be made
        self._compiles = recipe.compile
        self._loss = math.inf  # the last one that was logged
        self._signals = StopSignals()  # to this process
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
            IntegrityError: the processes' copies of the weights differ.
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
        with reporter, self._signals, traced as tick:
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
                goes_on, last = self._advance(micro), self.step == self.total
                logs = self.step % recipe.log_every == 0 or last
                due |= self.step % recipe.save_every == 0 or last or self._stop is not None
                if not goes_on or ((logs or due) and not self._settle()):
                    self._roll_back()
                    return
                if logs:
                    reporter.log(self._row())
                # Amid bad updates nobody knows yet whether the weights are good.
                if due and self.nonfinite.in_a_row == 0:
                    self._save()
                    due = False
                    if self._stop and not last:
                        self.checkpoints.wait()
                        raise Preempted(
                            f"{self.folder}: stopped by {self._stop} at step {self.step}, state "
                            "saved; the same command continues"
                        )
                tick()

    def _next(self, batches: Iterator[list[Batch]]) -> list[Batch]:
        """The next step's micro-batches; what was trained so far is saved if there are none."""
        try:
            return next(batches)
        except ZooError:
            # Saving takes all processes, and the others have their batch.
            new = self.step > self._saved and self.world.size == 1
            if new and self._settle() and self.nonfinite.in_a_row == 0:
                self._save()
                self.checkpoints.wait()
            raise

    def _advance(self, micro: list[Batch]) -> bool:
        """One step; False where the run has to go back because of the one before."""
        values = self._gradients(micro)
        if not self._settle():
            return False
        self._update(values)
        self.step += 1
        self.position += self.recipe.batch_size
        self.replicas.check(self.step)
        return True

    def _update(self, values: dict[str, Tensor]) -> None:
        """One optimiser step, which does nothing if a gradient is no number in any process."""
        graded = [(name, p.grad) for name, p in self._parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([grad for _, grad in graded]))
        norms = norms.full_tensor() if isinstance(norms, DTensor) else norms
        norm = torch.linalg.vector_norm(norms)
        if self.recipe.clip_grad:
            clip_grads_with_norm_((p for _, p in self._parameters), self.recipe.clip_grad, norm)
        # Sums over processes are taken when they are logged; this is the same on all of them.
        values["grad_norm"] = norm / self.world.size
        bad = (norm.isfinite() & values["loss"].isfinite()).logical_not().float()
        bad = self.world.sum_(bad).clamp_(max=1.0)
        is_bad = Flag(bad)
        self._attempt = Attempt(values, [name for name, _ in graded], norms, is_bad)
        if self._masks or not is_bad:
            self._step_optimizers(bad)
            if type(self.objective).after_step is not Objective.after_step:
                with undone_if(bad, self.objective):
                    self.objective.after_step(self.encoder)
        self._drop_gradients()

    def _step_optimizers(self, bad: Tensor) -> None:
        rate = self.schedule(self.step)
        for optimizer in self.optimizers:
            if self._masks:  # as torch's own scaler of gradients does it; no type knows
                setattr(optimizer, "found_inf", bad)  # noqa: B010
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            optimizer.step()

    def _drop_gradients(self) -> None:
        for _, parameter in self._parameters:
            parameter.grad = None

    def _settle(self) -> bool:
        """Counts the last update, now that it must be known; False where the run has to go back.

        Comes before the next update, so the average takes the weights that it is about.
        """
        if self._attempt is None:
            return True
        attempt, self._attempt = self._attempt, None
        verdict = self.nonfinite.judge(
            self.step - 1, is_finite=not attempt.is_bad, is_last=self.step == self.total
        )
        if verdict == "stop":
            self._give_up(attempt)
        if verdict == "skip" and self.world.is_main:
            few = ", ".join(self._samples(most=3))
            _log.warning("%s: not finite, step %d skipped (%s, ...)", self.folder, self.step, few)
        if verdict == "go" and self.ema is not None:
            self.ema.update_parameters(self.encoder)
        self.meter.add(attempt.values, made=verdict == "go")
        return verdict != "rollback"

    def _gradients(self, micro: list[Batch]) -> dict[str, Tensor]:
        """Forward and backward of all micro-batches; this process's share of every number."""
        counts = [self.objective.count(batch) for batch in micro]
        targets, asked = self.world.total([sum(counts), self._signals.came is not None])
        if asked:
            self._stop = self._signals.came or "a signal to another process"
        # Where parameters are divided, every process must do as many passes as the others.
        varies = self.loader.recipe.tokens is not None
        passes = self.world.most(len(micro)) if varies else len(micro)
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
                part = value.detach() * share
                values[name] = values[name] + part if name in values else part
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

    def _samples(self, most: int) -> list[str]:
        """Where the first samples of the last step are."""
        ids = self.loader.order.ids(
            np.arange(self.position - self.recipe.batch_size, self.position)
        )
        return [str(self.loader.shards.where(int(i))) for i in ids[:most]]

    def _give_up(self, attempt: Attempt) -> NoReturn:
        """Leaves what is needed to find the reason."""
        if self.world.is_main:
            norms = zip(attempt.names, attempt.norms.tolist(), strict=True)
            found = {
                "step": self.step - 1,
                "position": self.position - self.recipe.batch_size,
                "loss": float(attempt.values["loss"]),
                "gradient_norms": {name: norm for name, norm in norms if norm},
                "samples": self._samples(most=1000),
            }
            write_atomic(self.folder / "postmortem.json", json.dumps(found, indent=1) + "\n")
        raise NonFiniteError(
            f"{self.folder}: the loss or its gradient is not finite at step {self.step}; the "
            "last checkpoint is from before, postmortem.json names the batch. Try a lower "
            "train.lr or train.clip_grad=1"
        )

    def _roll_back(self) -> None:
        """To the last checkpoint, and on behind the batches that did the harm."""
        behind, counts = self.position, asdict(self.nonfinite)
        self._drop_gradients()
        self.checkpoints.wait()
        if not self._resume():
            raise NonFiniteError(
                f"{self.folder}: the loss or its gradient is not finite by step {self.step}, "
                "before the first checkpoint. Try a lower train.lr or train.clip_grad=1"
            )
        self.nonfinite = NonFinite(**counts)
        self.position = behind
        _log.warning("%s: not finite; back to step %d, on with other data", self.folder, self.step)

    def _row(self) -> dict[str, float]:
        quarantine = self.loader.quarantine
        bad, *_ = self.world.total([quarantine.counts.total()])
        row = {
            "step": self.step,
            **self.meter.row(self.recipe.batch_size),
            "lr": self.schedule(self.step - 1),
            "bad_samples": bad + quarantine.before.total(),
            "skipped_steps": float(self.nonfinite.skipped),
        }
        self._loss = row.get("loss", math.nan)
        return row

    def _save(self) -> None:
        self.replicas.check()
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
        wanted = uses_bfloat16(self.recipe, self.device)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)
