"""What to do when a loss or a gradient is no number: skip, go back, or stop.

A GPU would stand still if the host asked after every step. So the update is masked where it
happens, and the host reads one step later whether it was made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

__all__ = ["Attempt", "Flag", "NonFinite", "Verdict", "undone_if"]

Verdict = Literal["go", "skip", "rollback", "stop"]
_IN_A_ROW, _AT_LEAST, _SHARE = 5, 5, 0.001  # skipped updates: in a row, and of all steps
_ROLLBACKS = 2  # of a run


class Flag:
    """Whether a number of the device is not zero, on its way to the host."""

    def __init__(self, value: Tensor) -> None:
        """Sends it; nobody waits.

        Args:
            value: () of any device.
        """
        self._value = value.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        self._sent = torch.cuda.Event() if value.is_cuda else None
        if self._sent is not None:
            self._sent.record()

    def __bool__(self) -> bool:
        """Waits until the device has come that far."""
        if self._sent is not None:
            self._sent.synchronize()
        return bool(self._value)


@contextmanager
def undone_if(bad: Tensor, module: nn.Module) -> Iterator[None]:
    """What happens inside to a module's state changes nothing where `bad` () is not 0.

    State is what a checkpoint holds and no optimiser moves: buffers, and a teacher's weights.
    """
    before = {name: tensor.clone() for name, tensor in _state(module)}
    yield
    for name, tensor in _state(module):
        tensor.copy_(torch.where(bad > 0, before[name], tensor))


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not tensor.requires_grad:
            yield name, tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True, slots=True)
class Attempt:
    """An update that was asked for, as long as nobody knows whether it was made."""

    values: dict[str, Tensor]  # the step's numbers
    names: list[str]  # of the parameters that had a gradient
    norms: Tensor  # of their gradients, before clipping
    is_bad: Flag  # in any process


@dataclass
class NonFinite:
    """Counts bad updates of a run and decides about the next.

    Up to 5 in a row and 0.1 % of all steps are skipped: the update is dropped on all processes and
    the optimiser's state stays. Then the run goes back to its last checkpoint and on behind the
    batches that did the harm, twice at most (as PaLM's training did, 2204.02311). Then it stops.
    """

    policy: Literal["skip", "stop"]
    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0

    def judge(self, step: int, *, is_finite: bool, is_last: bool = False) -> Verdict:
        """What to do with the update of a 0-based step.

        The last one is not skipped: a good one must follow before anybody trusts the weights.
        """
        if is_finite:
            self.in_a_row = 0
            return "go"
        if self.policy == "stop":
            return "stop"
        self.skipped += 1
        self.in_a_row += 1
        few = self.in_a_row <= _IN_A_ROW and self.skipped <= max(_AT_LEAST, _SHARE * step)
        if few and not is_last:
            return "skip"
        if self.rollbacks == _ROLLBACKS:
            return "stop"
        self.rollbacks += 1
        self.skipped, self.in_a_row = 0, 0
        return "rollback"
