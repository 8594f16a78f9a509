"""Losses of VoCo: where a crop lies, told by its similarity to the base crops.

Numbers of `code_v2` are those of Luffy03/Large-Scale-Medical (arXiv 2410.09890), of `code_v1` those
of Luffy03/VoCo (arXiv 2402.17300); `paper` has the formulas of the articles, which both differ
from. Everything is float32 or better, also where the networks are not.

Notation: B volumes, R random and K base crops of each, E width of a projection, e = 1e-6,
p = relu(cos) of a crop with a base crop, y the share of the crop that lies in it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

__all__ = ["Projected", "Variant", "similarity", "voco_losses"]

Variant = Literal["code_v2", "code_v1", "paper"]
_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Projected:
    """What a projector makes of a batch."""

    crops: Tensor  # (B, R, E)
    bases: Tensor  # (B, K, E)


def voco_losses(
    student: Projected, teacher: Projected, labels: Tensor, *, variant: Variant
) -> dict[str, Tensor]:
    """The terms, means over volumes, whose sum is minimised.

    `intra` compares a volume's crops with its own base crops, `inter` the student's with the
    teacher's view of the next volume (itself where there is only one; not in code_v1),
    `regularization` keeps base crops apart.

    Args:
        student: of the student's projector.
        teacher: of the teacher's, without gradients.
        labels: (B, R, K), y.
        variant: whose formulas.
    """
    own = similarity(student.crops, teacher.bases)
    if variant == "code_v1":
        both = (own + similarity(teacher.crops, student.bases)) / 2
        intra = _positive(labels, both) + _negative_mean(labels, both.square())
        return {"intra": intra.mean(), "regularization": _apart(student.bases)}
    seen = similarity(student.crops, student.bases.roll(-1, 0))
    aim = similarity(teacher.crops, teacher.bases.roll(-1, 0)).detach()
    if variant == "paper":
        return {
            "intra": -(1 - (labels - own).abs() + _EPS).log().mean(),
            "inter": -(1 - (aim - seen).abs() + _EPS).log().mean(),
            "regularization": _pairs(student.bases, student.bases).abs().mean(),
        }
    return {
        "intra": _distance(labels, own).mean(),
        "inter": _distance(aim, seen).mean(),
        "regularization": _apart(student.bases),
    }


def similarity(crops: Tensor, bases: Tensor) -> Tensor:
    """(B, R, E), (B, K, E) -> (B, R, K), relu of cosines."""
    # No matrix product: autocast would round it.
    return cosine_similarity(crops.unsqueeze(2), bases.unsqueeze(1), dim=-1).relu()


def _distance(aim: Tensor, found: Tensor) -> Tensor:
    """(B,): sum y * -log(1 - |y - p| + e) / sum y, and mean -log(1 - p + e) where y = 0."""
    return _positive(aim, found) + _negative_mean(aim, -(1 - found + _EPS).log())


def _positive(aim: Tensor, found: Tensor) -> Tensor:
    logs = -(1 - (aim - found).abs() + _EPS).log()
    return (aim * logs).sum((1, 2)) / (aim.sum((1, 2)) + _EPS)


def _negative_mean(aim: Tensor, penalty: Tensor) -> Tensor:
    is_apart = (aim == 0).to(aim.dtype)
    return (is_apart * penalty).sum((1, 2)) / (is_apart.sum((1, 2)) + _EPS)


def _apart(bases: Tensor) -> Tensor:
    """Mean of relu(cos)^2 over pairs; as in the reference the later of two gets no gradient."""
    return _pairs(bases, bases.detach()).relu().square().mean()


def _pairs(bases: Tensor, others: Tensor) -> Tensor:
    """(B, K (K - 1) / 2) cosines of each base crop with the later ones."""
    count = bases.shape[1]
    first, second = torch.triu_indices(count, count, 1, device=bases.device)
    return cosine_similarity(bases[:, first], others[:, second], dim=-1)
