"""Skill-It (2307.14430): sources are weighted by the losses that their skills help to lower.

Differences from the paper that the reference code has, and golden numbers hold: losses are summed
over the last evaluations (with targets: averaged), and the loss that others are relative to is the
second evaluation as soon as there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zoo.errors import UsageError

__all__ = ["SkillIt"]

Weights = NDArray[np.float64]


@dataclass(kw_only=True, eq=False)
class SkillIt:
    """A mixture policy: weights in proportion to exp(eta * graph @ losses), anew each round.

    A round uses what was observed before it began, and is computed from ones: the weights of the
    round before play no part.

    Attributes:
        graph: (D, E) how much training on source d helps evaluation e: 1 for itself; an edge is
            0.5 in the paper.
        metrics: (E,) names of the evaluations' losses.
        windows: of a round.
        eta: how sharply losses become weights.
        evaluations: how many of the last ones count.
        targets: indices of the evaluations that count; all when None.
        first: (D,) weights of the first round, up to a factor; by the graph when None.
        eta_schedule: eta grows as the losses fall.
        normalize_loss: losses relative to the reference evaluation.
        dampen: halves the edges after each round.
    """

    graph: Weights
    metrics: tuple[str, ...]
    windows: int = 1
    eta: float = 0.5
    evaluations: int = 3
    targets: tuple[int, ...] | None = None
    first: tuple[float, ...] | None = None
    eta_schedule: bool = False
    normalize_loss: bool = False
    dampen: bool = False
    _seen: list[tuple[int, list[float]]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.graph.ndim != 2 or self.graph.shape[1] != len(self.metrics):
            raise ValueError(f"graph must be (sources, {len(self.metrics)}): {self.graph.shape}")
        if min(self.windows, self.evaluations) < 1:
            raise ValueError(f"windows and evaluations must be at least 1: {self}")

    def weights(self, window: int) -> Weights:
        """(D,) shares in the round that `window` is in."""
        round_ = window // self.windows
        if round_ == 0 and self.first is not None:
            return np.array(self.first) / sum(self.first)
        graph = self.graph
        if self.dampen:
            own = np.eye(*graph.shape) if graph.shape[0] == graph.shape[1] else 0.0
            graph = np.where(own, graph, graph * 0.5 ** max(0, round_ - 1))
        columns = slice(None) if self.targets is None else list(self.targets)
        graph, eta = graph[:, columns], self.eta
        losses = np.ones((1, graph.shape[1]))
        seen = [row for when, row in self._seen if when < round_ * self.windows]
        if seen:
            losses = np.array(seen)[:, columns]
            reference = losses[min(1, len(seen) - 1)]
            if self.eta_schedule:
                eta /= losses[-1].sum() / reference.sum()
            if self.normalize_loss:
                losses = losses / reference
        recent = losses[-self.evaluations :]
        total = recent.sum(axis=0) if self.targets is None else recent.mean(axis=0)
        logits = eta * (graph @ total)
        weights = np.exp(logits - logits.max())
        return weights / weights.sum()

    def observe(self, window: int, metrics: Mapping[str, float]) -> None:
        """Takes the losses of one evaluation, made before `window` was trained on.

        Raises:
            UsageError: one of them is missing.
        """
        missing = [name for name in self.metrics if name not in metrics]
        if missing:
            raise UsageError(f"Skill-It needs {', '.join(missing)} from the evaluation")
        self._seen.append((window, [metrics[name] for name in self.metrics]))

    def state(self) -> dict[str, object]:
        """All evaluations, as JSON can hold them."""
        return {"seen": [[window, losses] for window, losses in self._seen]}

    def restore(self, state: Mapping[str, object]) -> None:
        """Continues from what `state` gave."""
        seen = state["seen"]
        assert isinstance(seen, list)
        self._seen = [(window, list(losses)) for window, losses in seen]
