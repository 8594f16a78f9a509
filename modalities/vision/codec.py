"""Images in shards: png or jpg with an optional integer label `cls`."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from PIL import Image
from zoo.modalities.contracts import Codec, Sample, decode_label
from zoo.modalities.vision.preprocess import decode_image

from zoo.errors import DataError

__all__ = ["VisionCodec"]

EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class VisionCodec(Codec):
    """{"image": uint8 (H, W) or (H, W, C), "label": int} <-> png and cls."""

    def encode(self, raw: Sample) -> dict[str, bytes]:
        """Lossless png, so that a shard holds what it was given; the label as ASCII digits."""
        buffer = BytesIO()
        Image.fromarray(np.asarray(raw["image"])).save(buffer, format="png")
        members = {"png": buffer.getvalue()}
        if "label" in raw:
            members["cls"] = str(raw["label"]).encode()
        return members

    def decode(self, members: Mapping[str, bytes]) -> Sample:
        """{"image": uint8 tensor (C, H, W)} and "label" where there is one."""
        image = next((members[ext] for ext in EXTENSIONS if ext in members), None)
        if image is None:
            raise DataError(f"no image member ({', '.join(EXTENSIONS)}) among {sorted(members)}")
        sample: Sample = {"image": decode_image(image)}
        if "cls" in members:
            sample["label"] = decode_label(members["cls"])
        return sample
