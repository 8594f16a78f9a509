"""What a run does between two logged steps: sums of its numbers, time, tokens, memory.

Nothing here waits for a GPU; sums over processes are taken when a row is made.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from zoo.modalities.contracts import Batch, Encoder, warn_of_cuts
from zoo.objectives.contract import Objective
from zoo.training.flops import ForwardFlops, peak_flops, train_flops
from zoo.training.metrics import count_tokens, memory_gb
from zoo.training.profile import waiting_for_data
from zoo.training.world import World

__all__ = ["Meter"]


class Meter:
    """Counts; `row` gives means and rates since the last row."""

    def __init__(self, encoder: Encoder, objective: Objective, world: World) -> None:
        """To be made before anything wraps or divides the modules.

        Args:
            encoder: says how many tokens a batch has.
            objective: its forward pass is counted once, where the device's peak is known.
            world: who trains together.
        """
        self.encoder, self.world = encoder, world
        self._peak = peak_flops(world.device)
        self._count = ForwardFlops(encoder, objective) if self._peak else None
        self._flops_per_token: float | None = None
        self._warned = False
        self.begin()

    def begin(self) -> None:
        """Forgets everything since the last row."""
        self.steps = self.made = self.tokens = 0
        self.cut: int | None = None
        self.waited, self._began = 0.0, time.perf_counter()
        self.sums: dict[str, Tensor] = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what gets the next batch."""
        began = time.perf_counter()
        with waiting_for_data():
            yield
        self.waited += time.perf_counter() - began

    def take(self, micro: Sequence[Batch]) -> None:
        """Counts the micro-batches of a step."""
        tokens = sum(count_tokens(batch, self.encoder) for batch in micro)
        if self._count is not None:
            flops = self._count(micro[0])
            if flops is not None:
                alone = count_tokens(micro[0], self.encoder)
                self._flops_per_token = train_flops(flops) / max(1, alone)
            self._count = None
        self.tokens += tokens
        if "cut" in micro[0]:
            self.cut = (self.cut or 0) + sum(int(batch["cut"].sum()) for batch in micro)

    def add(self, values: dict[str, Tensor], *, made: bool) -> None:
        """A step's numbers; those of an update that was not made are left out."""
        self.steps += 1
        if not made:
            return
        self.made += 1
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def row(self, batch_size: int) -> dict[str, float]:
        """Means over the steps since the last row, and rates of all processes together."""
        names = sorted(self.sums)
        means: list[float] = []
        if names:
            sums = torch.stack([self.sums[name].float() for name in names])
            means = self.world.sum_(sums).div_(self.made).tolist()
        seconds = max(1e-9, time.perf_counter() - self._began)
        waited, tokens = self.world.total([self.waited, self.tokens])
        row = {
            **dict(zip(names, means, strict=True)),
            "samples_per_second": self.steps * batch_size / seconds,
            "tokens_per_second": tokens / seconds,
            "data_wait": waited / self.world.size / seconds,
            "memory_gb": memory_gb(self.world.device),
        }
        if self.cut is not None:
            (cut,), seen = self.world.total([self.cut]), self.steps * batch_size
            row["cut"] = cut / max(1, seen)
            if cut and self.world.is_main and not self._warned:
                warn_of_cuts("training", cut, seen)
                self._warned = True
        if self._flops_per_token is not None and self._peak is not None:
            done = self._flops_per_token * row["tokens_per_second"]
            row["mfu"] = done / (self.world.size * self._peak)
        self.begin()
        return row
