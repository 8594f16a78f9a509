"""Small crops of images beside the two global views: multi-crop (arXiv 2006.09882).

DEVIATION: a small crop keeps its patches and takes the middle of the position table; DINO's code
stretches the whole table over it.

Notation: B samples, M crops, C channels, S side of the encoder's images, s of a small crop.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from zoo.modalities.contracts import Batch, Sample
from zoo.modalities.image_patches import ImagePatchEncoder, ImagePreprocess
from zoo.objectives.views import Colours, coloured, stacked_views

__all__ = ["CropsConfig", "crop_features", "multi_crop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CropsConfig:
    """The small crops; the global ones are as large as `preprocess.scale` says."""

    count: int = 8
    size: int = 96  # pixels
    scale: tuple[float, float] = (0.05, 0.4)  # share of the image's area

    def check(self, encoder: ImagePatchEncoder) -> None:
        """Raises ValueError where crops do not fit the encoder."""
        size, patch = self.size, encoder.patch_size
        if self.count and (size % patch or not 0 < size <= encoder.img_size):
            raise ValueError(
                f"crops.size {size} must be a multiple of patch_size {patch}, at most img_size "
                f"{encoder.img_size}"
            )


def multi_crop(
    sample: Sample,
    preprocess: ImagePreprocess,
    generator: torch.Generator,
    *,
    crops: CropsConfig,
    colours: Colours,
) -> Batch:
    """`image` (2, C, S, S) and, where there are small crops, `local` (L, C, s, s), all uint8."""
    views = stacked_views(sample, preprocess, generator, colours=colours)
    if not crops.count:
        return views
    small = preprocess.cropping(crops.size, crops.scale)
    cut = [small.augment(sample, generator)["image"] for _ in range(crops.count)]
    changed = [coloured(crop, 2 + number, colours, generator) for number, crop in enumerate(cut)]
    return views | {"local": torch.stack(changed)}


def crop_features(encoder: ImagePatchEncoder, crops: Tensor) -> Tensor:
    """Pooled features (M, D) of small crops (M, C, s, s), at the cost of their own patches."""
    patch, side = encoder.patch_size, encoder.img_size
    count = crops.shape[-1] // patch
    begin = (side // patch - count) // 2
    images = crops.new_zeros(*crops.shape[:2], side, side)
    place = slice(begin * patch, (begin + count) * patch)
    images[..., place, place] = crops
    line = torch.arange(begin, begin + count, device=crops.device)
    keep = (line[:, None] * (side // patch) + line).flatten()
    tokens = encoder.tokenize({"image": images}).select(keep.expand(len(crops), -1))
    return encoder.pool(encoder.encode(tokens))
