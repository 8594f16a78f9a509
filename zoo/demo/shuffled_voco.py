"""The control of VoCo (arXiv 2410.09890): its crops and losses with labels that say nothing."""

from collections.abc import Mapping

import torch

import zoo
from zoo.modalities.contracts import Batch
from zoo.objectives.voco import VoCo

__all__ = ["ShuffledVoCo", "shuffled"]


class ShuffledVoCo(VoCo):
    """VoCo with every crop's shares of the base crops in another order each time."""

    def views(self, sample: Batch, generator: torch.Generator) -> Batch:
        """Those of VoCo, the labels of each crop shuffled."""
        batch = super().views(sample, generator)
        order = torch.rand(batch["labels"].shape, generator=generator).argsort(dim=1)
        return batch | {"labels": batch["labels"].gather(1, order)}


def shuffled(model: str) -> dict[str, object]:
    """Options of the control with all else as the recipe of `model` has it.

    They are spelled out because another objective starts from its own defaults.
    """
    recipe = zoo.card(model).recipe
    assert recipe is not None
    options = {
        f"objective.{name}": value for name, value in recipe.objective.items() if name != "augment"
    }
    augment = recipe.objective["augment"]
    assert isinstance(augment, Mapping)
    options |= {f"objective.augment.{name}": value for name, value in augment.items()}
    return {**options, "objective.name": f"{__name__}:{ShuffledVoCo.__name__}"}
