"""In which precision a run multiplies: float32, bfloat16 by autocast, or float8 (torchao)."""

from importlib import import_module

import torch
from torch import nn

from zoo.errors import UsageError
from zoo.registry.recipe import TrainRecipe
from zoo.training.groups import is_hidden

__all__ = ["use_float8", "uses_bfloat16"]

_CAPABILITY = (8, 9)  # Ada; Hopper is (9, 0)
_MULTIPLE = 16  # that float8 kernels ask of both sides of a matrix


def uses_bfloat16(recipe: TrainRecipe, device: torch.device) -> bool:
    """Whether everything that autocast lowers is computed in bfloat16, beside float8 too."""
    on_gpu = device.type == "cuda"
    return recipe.precision in ("bfloat16", "fp8") or (recipe.precision == "auto" and on_gpu)


def use_float8(module: nn.Module, device: torch.device) -> None:
    """Lets the linear layers of the blocks multiply in float8, in place (arXiv 2209.05433).

    Each tensor is scaled by its own maximum whenever it is used. Parameters stay the same float32
    objects, and so do their names. Pays from widths of about 1024, with `train.compile`.

    Raises:
        UsageError: the device or the installation cannot.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        raise UsageError(
            "train.precision=fp8 needs a GPU of compute capability 8.9 or more (Hopper), and this "
            f"is {_name(device)}: use train.precision=bfloat16"
        )
    try:
        float8 = import_module("torchao.float8")
    except ImportError:
        raise UsageError(
            "train.precision=fp8 needs torchao: pip install 'zoo[fp8]', or use bfloat16"
        ) from None

    def fits(layer: nn.Linear, name: str) -> bool:
        sides = (layer.in_features, layer.out_features)
        return is_hidden(f"{name}.weight", layer.weight) and not any(n % _MULTIPLE for n in sides)

    # The number of tokens is a side as well, in the gradient of a weight.
    config = float8.Float8LinearConfig(pad_inner_dim=True)
    float8.convert_to_float8_training(module, module_filter_fn=fits, config=config)


def _name(device: torch.device) -> str:
    return "a CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
