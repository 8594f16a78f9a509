"""Images -> uint8 tensors of the encoder's size.

Normalisation happens on the device, in the encoder. Decoding is in `zoo.modalities.images`.

Notation: C channels, H and W pixels, S side of the encoder's input.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from zoo.modalities.contracts import Batch, Raw, Sample
from zoo.modalities.image_patches import ImagePreprocess
from zoo.modalities.images import decode_image

from zoo.errors import DataError

__all__ = ["VisionPreprocess", "VisionPreprocessConfig"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionPreprocessConfig:
    """Constants that belong to a set of weights."""

    mean: tuple[float, ...] = IMAGENET_MEAN  # per channel, of pixels in [0, 1]
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop_pct: float = 0.875  # side of the centre crop over the shorter side after resizing
    crop_mode: Literal["center", "squash"] = "center"  # squash: both sides are resized alike
    # Training views: share of the area and aspect ratios of a random crop, chance of a mirror
    # image.
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5


class VisionPreprocess(ImagePreprocess):
    """Path, bytes, array or decoded sample -> {"image": uint8 (C, S, S)}."""

    def __init__(self, config: VisionPreprocessConfig, *, img_size: int, in_chans: int) -> None:
        for name in ("mean", "std"):
            if len(getattr(config, name)) != in_chans:
                values = len(getattr(config, name))
                raise ValueError(f"preprocess.{name} has {values} values for {in_chans} channels")
        self.config, self.img_size, self.in_chans = config, img_size, in_chans

    @property
    def bound(self) -> Mapping[str, object]:
        """Pixel statistics and interpolation; how much is cropped is a matter of the protocol."""
        return {name: getattr(self.config, name) for name in ("mean", "std", "interpolation")}

    def __call__(self, raw: Raw) -> Batch:
        """Shorter side to S / crop_pct, then the centre S x S; arrays are uint8 (H, W[, C])."""
        image, size = self._read(raw), self.img_size
        _, h, w = image.shape
        if (h, w) != (size, size):
            image = self._resize(image, self._resized(h, w))
            top, left = (round((side - size) / 2) for side in image.shape[1:])
            image = image[:, top : top + size, left : left + size]
        return {"image": image.contiguous()}

    def augment(self, sample: Sample, generator: torch.Generator) -> Batch:
        """A random crop resized to S x S, mirrored with probability `hflip`."""
        image = self._read(sample)
        _, h, w = image.shape
        image = self.crop(image, self.crop_box(h, w, generator))
        if self.config.hflip > 0 and torch.rand((), generator=generator) < self.config.hflip:
            image = image.flip(-1)
        return {"image": image.contiguous()}

    def crop(self, image: Tensor, box: tuple[int, int, int, int]) -> Tensor:
        """A part of an image, (C, H, W) -> (C, S, S); the box is top, left, height, width."""
        top, left, h, w = box
        size = (self.img_size, self.img_size)
        return self._resize(image[:, top : top + h, left : left + w], size)

    def crop_box(self, h: int, w: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """Top, left, height, width: RandomResizedCrop of torchvision with an explicit generator.

        After ten tries it is the centre, as much of it as the aspect ratios allow.
        """
        if self.config.scale == (1.0, 1.0) and h == w:
            return 0, 0, h, w
        low, high = (math.log(value) for value in self.config.ratio)
        for _ in range(10):
            share, skew, y, x = torch.rand(4, generator=generator).tolist()
            smallest, largest = self.config.scale
            area = h * w * (smallest + share * (largest - smallest))
            ratio = math.exp(low + skew * (high - low))
            crop_w, crop_h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < crop_w <= w and 0 < crop_h <= h:
                return int(y * (h - crop_h + 1)), int(x * (w - crop_w + 1)), crop_h, crop_w
        narrow, wide = self.config.ratio
        crop_h, crop_w = min(h, round(w / narrow)), min(w, round(h * wide))
        return (h - crop_h) // 2, (w - crop_w) // 2, crop_h, crop_w

    def cropping(self, img_size: int, scale: tuple[float, float]) -> "VisionPreprocess":
        """The same for other random crops."""
        config = replace(self.config, scale=scale)
        return VisionPreprocess(config, img_size=img_size, in_chans=self.in_chans)

    def collate(self, samples: Sequence[Batch]) -> Batch:
        """Every field stacked: image (B, C, S, S)."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def _read(self, raw: Raw) -> Tensor:
        if isinstance(raw, dict):
            raw = raw["image"]  # type: ignore[assignment]
        if isinstance(raw, str | Path):
            path = Path(raw)
            try:
                raw = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path}: cannot read the image ({error.strerror})") from None
            raw = decode_image(raw, name=str(path))
        elif isinstance(raw, bytes):
            raw = decode_image(raw)
        elif isinstance(raw, np.ndarray):
            raw = torch.from_numpy(np.array(raw[None] if raw.ndim == 2 else raw))
            raw = raw if raw.shape[0] == 1 else raw.permute(2, 0, 1)
        if not isinstance(raw, Tensor) or raw.dtype != torch.uint8 or raw.ndim != 3:
            raise DataError(
                "an image array must be uint8 (H, W) or (H, W, C), a tensor uint8 (C, H, W); got "
                f"{getattr(raw, 'dtype', type(raw).__name__)} {tuple(getattr(raw, 'shape', ()))}"
            )
        if raw.shape[0] == 1 and self.in_chans == 3:
            return raw.expand(3, -1, -1)
        if raw.shape[0] == 3 and self.in_chans == 1:
            return _grey(raw)
        if raw.shape[0] != self.in_chans:
            raise DataError(f"the image has {raw.shape[0]} channels, the encoder {self.in_chans}")
        return raw

    def _resized(self, h: int, w: int) -> tuple[int, int]:
        """Height and width before the centre crop, rounded down as torchvision and timm do."""
        short = max(self.img_size, int(self.img_size / self.config.crop_pct))
        if self.config.crop_mode == "squash":
            return short, short
        return int(short * h / min(h, w)), int(short * w / min(h, w))

    def _resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(image.shape[1:]) == size:
            return image
        mode = self.config.interpolation
        return interpolate(image[None], size=size, mode=mode, antialias=True)[0]


def _grey(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (1, H, W) by ITU-R 601 luma, rounded as Pillow does."""
    red, green, blue = image.int()
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)[None]
