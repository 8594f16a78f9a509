"""Images as patches: what objectives that crop, hide or corrupt pixels rely on.

Notation: S side of the encoder's images, C channels.
"""

from abc import abstractmethod

from torch import Tensor
from zoo.modalities.contracts import GridEncoder, Preprocess

__all__ = ["ImagePatchEncoder", "ImagePreprocess"]


class ImagePreprocess(Preprocess):
    """Makes `image` (C, S, S), uint8."""

    img_size: int  # S
    in_chans: int  # C

    @abstractmethod
    def cropping(self, img_size: int, scale: tuple[float, float]) -> "ImagePreprocess":
        """The same for other random crops: their side, and their share of the image's area."""


class ImagePatchEncoder(GridEncoder):
    """Square images (B, C, S, S), uint8 or normalised, in square patches; a class token."""

    needs_words = "patches of images"
    img_size: int  # S
    patch_size: int
    mean: Tensor  # of normalisation, (C, 1, 1)
    std: Tensor

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
