"""Everything that a run must find again: collected into a checkpoint, and put back.

Weights, optimisers, average, random numbers of every process, the loader's position, and what was
counted. Whole tensors go into safetensors; where parameters are divided among processes, each
writes its part.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from zoo.data.loader import Loader
from zoo.data.order import Purpose, key
from zoo.errors import UsageError
from zoo.training.checkpoint import Checkpoint, Checkpoints
from zoo.training.divided import gathered, sizes
from zoo.training.optim_state import optimizer_tensors, restore_optimizers
from zoo.training.stored import SHARDS
from zoo.training.world import World, is_lost
from zoo.training.wrap import Step

__all__ = ["RunState", "fresh_noise", "whole"]


@dataclass(frozen=True)
class RunState:
    """The parts of a run that change while it trains."""

    pair: Step
    optimizers: list[Optimizer]
    ema: AveragedModel | None
    loader: Loader
    world: World
    checkpoints: Checkpoints
    where: str  # for messages

    def save(self, step: int, facts: dict[str, object], position: int) -> None:
        """Writes a checkpoint after so many steps.

        Raises:
            StorageError: it could not be written; the previous ones are untouched.
        """
        optim = optimizer_tensors(self.optimizers, self.pair.named_parameters())
        tensors = {"model": self.pair.state_dict(), "optim": optim}
        if self.ema is not None:
            tensors["ema"] = self.ema.state_dict()
        divided = any(isinstance(p, DTensor) for p in self.pair.parameters())
        random = {
            f"{device}-{rank}": state
            for rank, states in enumerate(self.world.everyones(self._random()))
            for device, state in states.items()
        }
        loader = self.loader.state(position)
        bad = self.loader.quarantine
        loader |= bad.together(self.world.everyones(bad.found))
        checkpoint = Checkpoint(
            step=step,
            state={**facts, "loader": loader, "world": self.world.size},
            tensors={"rng": random} if divided else {**tensors, "rng": random},
            shards=_flat(tensors) if divided else {},
        )
        self.checkpoints.save(checkpoint)

    def restore(self, checkpoint: Checkpoint) -> int:
        """Puts everything back; returns the loader's position.

        Raises:
            UsageError: the checkpoint is of another model or of other data.
        """
        loader = checkpoint.state["loader"]
        assert isinstance(loader, dict)
        position = self.loader.restore(loader)
        self.world.on_main(lambda: self.loader.quarantine.trim(position))
        tensors = dict(checkpoint.tensors)
        try:
            if "model" not in tensors:
                tensors |= self._read_shards(checkpoint)
            self._fill(self.pair, tensors["model"])
            if self.ema is not None:
                self._fill(self.ema, tensors["ema"])
        except (RuntimeError, KeyError) as error:
            if is_lost(error):  # another process died while all of them read
                raise
            raise UsageError(
                f"{self.where}: its checkpoint is of a model of another shape; choose another out"
            ) from None
        restore_optimizers(self.optimizers, self.pair.named_parameters(), tensors["optim"])
        self._restore_random(checkpoint, tensors["rng"])
        return position

    def _read_shards(self, checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
        """Tensors like this process's parts, filled from whatever parts there are."""
        assert checkpoint.path is not None
        parameters = dict(self.pair.named_parameters())
        groups = {"model": self.pair.state_dict(), "optim": dict[str, Tensor]()}
        if self.ema is not None:
            groups["ema"] = self.ema.state_dict()
        for name, facts in sizes(checkpoint.path / SHARDS).items():
            group, _, rest = name.partition("/")
            if group == "optim":
                like = parameters[rest.partition("::")[0]]
                empty = torch.zeros(facts.size, dtype=facts.properties.dtype)
                groups["optim"][rest] = (
                    torch.zeros_like(like) if facts.size == like.shape else empty
                )
        flat = {name: tensor.detach() for name, tensor in _flat(groups).items()}
        self.checkpoints.fill(checkpoint, flat)
        return {
            group: {name: flat[f"{group}/{name}"] for name in tensors}
            for group, tensors in groups.items()
        }

    def _fill(self, module: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Copies values into a module; parts of a divided one are there already."""
        current = module.state_dict()
        if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
            return
        if any(isinstance(tensor, DTensor) for tensor in current.values()):
            options = StateDictOptions(full_state_dict=True)
            set_model_state_dict(module, dict(tensors), options=options)
            return
        module.load_state_dict(tensors)

    def _random(self) -> dict[str, Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.world.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.world.device)
        return states

    def _restore_random(self, checkpoint: Checkpoint, states: dict[str, Tensor]) -> None:
        rank = self.world.rank
        if checkpoint.state["world"] != self.world.size:
            fresh_noise(self.loader.seed, checkpoint.step, rank)
            return
        torch.set_rng_state(states[f"cpu-{rank}"])
        if f"cuda-{rank}" in states and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(states[f"cuda-{rank}"], self.world.device)


def fresh_noise(seed: int, step: int, rank: int) -> None:
    """Random numbers of a process from here on: its own, and the same whenever it begins so."""
    with np.errstate(over="ignore"):
        torch.manual_seed(int(key(seed, Purpose.PROCESS, step, rank)[0] >> np.uint64(1)))


def _flat(groups: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{group}/{name}": t for group, tensors in groups.items() for name, t in tensors.items()
    }


def whole(checkpoint: Checkpoint, *groups: str) -> dict[str, dict[str, Tensor]]:
    """Whole tensors, in one process that may be alone.

    Args:
        checkpoint: that was read.
        groups: which are wanted: `model`, `optim`, `ema`.
    """
    if "model" in checkpoint.tensors:
        return {group: checkpoint.tensors[group] for group in groups}
    assert checkpoint.path is not None
    found: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
    beginnings = tuple(f"{group}/" for group in groups)
    for name, tensor in gathered(checkpoint.path / SHARDS, beginnings).items():
        group, _, rest = name.partition("/")
        found[group][rest] = tensor
    return found
