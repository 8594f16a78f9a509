"""One module for the whole training step, and what makes it run on several devices or in less room.

`plain`, DDP (each process holds everything) or FSDP2 `fully_shard` (each holds its part), with
activation checkpointing and compilation block by block. Names of parameters never change.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from zoo.errors import UsageError
from zoo.modalities.contracts import Batch, Encoder
from zoo.objectives.contract import Losses, Objective
from zoo.registry.recipe import TrainRecipe
from zoo.training.precision import uses_bfloat16
from zoo.training.world import World

__all__ = [
    "Step",
    "blocks_of",
    "delayed_sync",
    "divide",
    "is_divided",
    "prepared",
    "uncompiled",
    "wrapped",
]

SHARD_ABOVE = 300_000_000  # parameters from which "auto" shards them
_log = logging.getLogger("zoo")


class Step(nn.Module):
    """Encoder and objective: what is trained together."""

    def __init__(self, encoder: Encoder, objective: Objective) -> None:
        super().__init__()
        self.encoder, self.objective = encoder, objective

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch.

        Raises:
            UsageError: what the objective gives is something else.
        """
        losses = self.objective(self.encoder, batch)
        named = isinstance(losses, Losses) and {**losses.parts, **losses.metrics}
        if named is False or not all(isinstance(value, Tensor) for value in named.values()):
            raise UsageError(
                f"{type(self.objective).__name__}.forward must give a Losses whose parts and "
                "metrics are tensors"
            )
        return losses


def is_divided(recipe: TrainRecipe, step: Step, world: World) -> bool:
    """Whether parameters are divided among processes."""
    if recipe.parallel == "auto":
        count = sum(p.numel() for p in step.parameters())
        return world.size > 1 and count > SHARD_ABOVE
    return recipe.parallel in ("fsdp", "hsdp")


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks: children of every list named `blocks` or `..._blocks`."""
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and name.rpartition(".")[2].endswith("blocks"):
            yield from child


def prepared(step: Step, recipe: TrainRecipe) -> None:
    """Activation checkpointing and compilation, block by block, in place."""
    for block in blocks_of(step):
        if recipe.checkpoint_activations:
            forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
            # Put over the method, so that the parameters keep their names.
            setattr(block, "forward", forward)  # noqa: B010 - the plain form has no type
        if recipe.compile:
            block.compile()


def uncompiled(step: Step) -> None:
    """Takes compilation back."""
    for block in blocks_of(step):
        block._compiled_call_impl = None


def wrapped(step: Step, recipe: TrainRecipe, world: World) -> nn.Module:
    """What is called in training: the step, DDP around it, or the step divided in place."""
    if is_divided(recipe, step, world):
        divide(step, recipe, world)
        return step
    if world.size == 1:
        return step
    if world.device.type == "cuda":
        return DistributedDataParallel(step, device_ids=[world.device], broadcast_buffers=False)
    model = DistributedDataParallel(step, broadcast_buffers=False)
    # DDP sorts gradients into other buckets after its first step, so a resumed run would sum those
    # of three and more processes in another order: other last bits. No public switch is silent.
    model.reducer._push_all_rebuilt_params()
    model.reducer._rebuild_buckets()
    return model


def divide(module: nn.Module, recipe: TrainRecipe, world: World) -> None:
    """Leaves each process its part of every parameter, in place."""
    kind = world.device.type
    if recipe.parallel == "hsdp" and world.size > world.local_size:
        ranks = torch.arange(world.size).view(-1, world.local_size)
        groups = [
            world.in_time(functools.partial(_subgroup, lists.tolist(), world.timeout))
            for lists in (ranks.T, ranks)
        ]
        mesh = DeviceMesh.from_group(groups, kind, ranks, mesh_dim_names=("nodes", "shard"))
    else:
        mesh = init_device_mesh(kind, (world.size,), mesh_dim_names=("shard",))
    low = uses_bfloat16(recipe, torch.device(kind))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if low else None, reduce_dtype=torch.float32
    )
    for block in blocks_of(module):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)


def _subgroup(ranks: list[list[int]], timeout: timedelta) -> dist.ProcessGroup:
    own, _ = dist.new_subgroups_by_enumeration(ranks, timeout=timeout)
    return own


def delayed_sync(model: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Gradients of all but the last micro-batch stay where they are."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    if isinstance(model, DistributedDataParallel) and not last:
        return _no_sync(model)
    return nullcontext()


@contextmanager
def _no_sync(model: DistributedDataParallel) -> Iterator[None]:
    with model.no_sync():
        yield
