"""Images in shards: png, jpg or webp; beside them `cls` (a label), `json` (facts), `txt`."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from zoo.modalities.beside import decode_beside, encode_beside
from zoo.modalities.contracts import Buffer, Codec, Sample
from zoo.modalities.members import decode_member, find_member

__all__ = ["VisionCodec"]

EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class VisionCodec(Codec):
    """{"image": uint8 (H, W) or (H, W, C), ...} <-> png.

    "label": int, "facts": dict and "text": str <-> cls, json and txt, where they are.
    """

    def encode(self, raw: Sample) -> dict[str, bytes]:
        """Lossless png, so that a shard holds what it was given; the label as ASCII digits."""
        buffer = BytesIO()
        Image.fromarray(np.asarray(raw["image"])).save(buffer, format="png")
        return {"png": buffer.getvalue(), **encode_beside(raw)}

    def decode(self, members: Mapping[str, Buffer]) -> Sample:
        """{"image": uint8 tensor (C, H, W)}, and what else there is: "facts", "label", "text"."""
        extension, image = find_member(members, EXTENSIONS, what="image")
        return {"image": decode_member(extension, image), **decode_beside(members)}

    def measure(self, sample: Sample) -> dict[str, float]:
        """Height and width in pixels, and the mean of the pixels in [0, 1]."""
        image = torch.as_tensor(sample["image"])
        mean = image.mean(dtype=torch.float32).item() / 255
        return {"height": image.shape[-2], "width": image.shape[-1], "mean": mean}
