"""Several augmentations of a sample, made in the loader's workers, and their features.

Crops and mirror images are the preprocessing's. Colours, for images only, are those of BYOL (arXiv
2006.07733), which DINO, iBOT, VICReg, Barlow Twins and SiT took over. All chance comes from the
generator, which torchvision's transforms cannot do; its functions do the work.

Notation: B samples, V views, C channels, S side, D encoder width.
"""

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from zoo.modalities.contracts import Batch, Preprocess, Sample

from zoo.errors import UsageError

__all__ = ["Colours", "coloured", "encoded", "stacked_views"]

_SIGMA = (0.1, 2.0)  # pixels, of the blur
_SOLARIZE = 128  # pixels from here on are inverted


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """How pixels of images are changed; a share for each view, the last one for all that follow."""

    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, ...
    jitter_p: float = 0.8  # ... saturation, hue
    grey_p: float = 0.2
    blur_p: tuple[float, ...] = (1.0, 0.1, 0.5)
    solarize_p: tuple[float, ...] = (0.0, 0.2, 0.0)

    def __post_init__(self) -> None:
        shares = (self.jitter_p, self.grey_p, *self.blur_p, *self.solarize_p)
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError("shares of colours must lie between 0 and 1")
        if not self.blur_p or not self.solarize_p:
            raise ValueError("blur_p and solarize_p need a share")
        if min(self.jitter) < 0 or max(self.jitter[:3]) > 1 or self.jitter[3] > 0.5:
            raise ValueError("jitter must lie between 0 and 1, that of the hue below 0.5")


def stacked_views(
    sample: Sample,
    preprocess: Preprocess,
    generator: torch.Generator,
    *,
    count: int = 2,
    colours: Colours,
) -> Batch:
    """`count` augmentations of a decoded sample: every field is (V, ...)."""
    views = [preprocess.augment(sample, generator) for _ in range(count)]
    for number, view in enumerate(views):
        if "image" in view:
            view["image"] = coloured(view["image"], number, colours, generator)
    return {name: torch.stack([view[name] for view in views]) for name in views[0]}


def encoded(encoder: nn.Module, batch: Batch) -> Tensor:
    """Views (B, V, ...) -> their pooled features (B, V, D)."""
    views = next(iter(batch.values())).shape[1]
    pooled: Tensor = encoder({name: value.flatten(0, 1) for name, value in batch.items()}).pooled
    return pooled.unflatten(0, (-1, views))


def coloured(image: Tensor, view: int, colours: Colours, generator: torch.Generator) -> Tensor:
    """Jitter, grey, blur, solarisation, each with its chance.

    Args:
        image: uint8 (C, S, S); only three channels have colours, one or more have brightness.
        view: the number of the view.
        colours: the chances.
        generator: of all chance.
    """
    draws = torch.rand(5, generator=generator).tolist()
    if draws[0] < colours.jitter_p:
        image = _jittered(image, colours.jitter, generator)
    if draws[1] < colours.grey_p and len(image) == 3:
        image = _functional().rgb_to_grayscale(image, num_output_channels=3)
    if draws[2] < _of(colours.blur_p, view):
        image = _blurred(image, _SIGMA[0] + draws[3] * (_SIGMA[1] - _SIGMA[0]))
    if draws[4] < _of(colours.solarize_p, view):
        image = torch.where(image < _SOLARIZE, image, 255 - image)
    return image


def _of(shares: tuple[float, ...], view: int) -> float:
    return shares[min(view, len(shares) - 1)]


def _jittered(
    image: Tensor, jitter: tuple[float, float, float, float], generator: torch.Generator
) -> Tensor:
    """Brightness, contrast, saturation and hue by random factors, in random order."""
    order = torch.randperm(4, generator=generator).tolist()
    draws = (2 * torch.rand(4, generator=generator) - 1).tolist()
    names = ("brightness", "contrast", "saturation", "hue")
    for place in order:
        if jitter[place] == 0 or (place >= 2 and len(image) != 3):
            continue
        by = draws[place] * jitter[place]
        change = getattr(_functional(), f"adjust_{names[place]}")
        image = change(image, by if names[place] == "hue" else 1.0 + by)
    return image


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """By a Gaussian, rows and then columns: much faster than its square at once."""
    radius = min(math.ceil(3 * sigma), image.shape[-1] - 1)
    x = torch.arange(-radius, radius + 1) / sigma
    kernel = (-x.square() / 2).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    rows = conv2d(pad(image[:, None].float(), (radius, radius, 0, 0), mode="reflect"), kernel)
    both = conv2d(pad(rows, (0, 0, radius, radius), mode="reflect"), kernel.mT)
    return both.squeeze(1).round().to(torch.uint8)


def _functional() -> Any:  # noqa: ANN401 - torchvision comes without types
    try:
        return import_module("torchvision.transforms.v2.functional")
    except ImportError:
        raise UsageError(
            "views of images need torchvision: pip install 'zoo[vision]', or leave colours alone "
            "(objective.colours.jitter_p=0 objective.colours.grey_p=0)"
        ) from None
