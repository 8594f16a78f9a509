"""Adam in the singular basis of each matrix: GaLore (arXiv 2403.03507) and Conda (2509.24218).

Both packages keep Python objects in the optimiser's state, which no safe format can store; here it
is tensors. Numbers are those of the authors' code: decay comes after the step, by the plain rate.

Notation: R rows, C columns, r rank.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["ProjectedAdamW", "Projection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Which basis. GaLore: the gradient's, with both moments in it, which saves their memory.

    Conda: that of the first moment, which stays whole; only the second one is in the basis.
    """

    space: Literal["gradient", "momentum"]  # GaLore, Conda
    rank: int | None = None  # r; by default the smaller side of the matrix
    gap: int = 200  # updates between two bases
    scale: float = 0.25  # of the step
    # What is projected: the longer side of the matrix (std), the shorter one, or both.
    side: Literal["std", "reverse_std", "left", "right", "full"] = "std"

    def basis(self, matrix: Tensor) -> dict[str, Tensor]:
        """`left` (R, r), `right` (C, r), or both, from the singular vectors of a matrix."""
        rows, columns = matrix.shape
        side = self.side
        if side in ("std", "reverse_std"):
            side = "right" if (rows >= columns) == (side == "std") else "left"
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        sides = {"left": left[:, : self.rank], "right": right[: self.rank].T}
        return {name: t.contiguous() for name, t in sides.items() if side in (name, "full")}


class ProjectedAdamW(Optimizer):
    """AdamW whose moments live in a basis that is renewed now and then; for matrices only."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, object]],
        lr: float,
        projection: Projection,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.projection = projection

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient stay."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad.float(), group)

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        step = int(state.get("step", 0))
        whole = self.projection.space == "momentum"
        if whole:
            moment = state.setdefault("exp_avg", torch.zeros_like(gradient))
            moment.lerp_(gradient, 1 - beta1)
        if step % self.projection.gap == 0:
            state |= self.projection.basis(moment if whole else gradient)
        low = _project(gradient, state)
        square = state.setdefault("exp_avg_sq", torch.zeros_like(low))
        square.mul_(beta2).addcmul_(low, low, value=1 - beta2)
        if whole:
            low_moment = _project(moment, state)
        else:
            low_moment = state.setdefault("exp_avg", torch.zeros_like(low)).lerp_(low, 1 - beta1)
        update = _back(low_moment / (square.sqrt() + group["eps"]), state)
        step += 1
        state["step"] = torch.tensor(float(step))
        corrected = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        p.sub_(update.to(p.dtype), alpha=corrected * self.projection.scale)
        p.mul_(1 - group["lr"] * group["weight_decay"])


def _project(matrix: Tensor, basis: dict[str, Tensor]) -> Tensor:
    if "left" in basis:
        matrix = basis["left"].T @ matrix
    return matrix @ basis["right"] if "right" in basis else matrix


def _back(matrix: Tensor, basis: dict[str, Tensor]) -> Tensor:
    if "left" in basis:
        matrix = basis["left"] @ matrix
    return matrix @ basis["right"].T if "right" in basis else matrix
