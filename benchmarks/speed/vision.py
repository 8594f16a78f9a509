"""Training images from JPEG bytes, against the official pipeline of MAE.

Official (facebookresearch/mae): Pillow decodes, torchvision's RandomResizedCrop, flip, ToTensor and
Normalize, all in the worker. Here: torchvision decodes, the crop stays uint8, and normalisation
happens on the device; it is timed apart. Both on one thread, in turn, by the processor's clock,
because others use the machine. 32 crops of 500 x 375 of the two photographs that come with
scikit-learn. Crops are compared pixel by pixel before anything is timed.
"""

import io
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from zoo.benchmarks.speed.timing import alternate, report
from zoo.modalities.vision.codec import VisionCodec
from zoo.modalities.vision.pixels import normalized
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig

ROUNDS, SIZE, SHAPE = 12, 224, (375, 500)


def photographs() -> list[bytes]:
    """JPEG files: qualities 90 and 95, colour whole and halved."""
    load: Any = import_module("sklearn.datasets").load_sample_images
    files = []
    for image, top, left in product(load().images, (0, 52), (0, 70, 140, 35)):
        part = Image.fromarray(np.asarray(image)[top : top + SHAPE[0], left : left + SHAPE[1]])
        for quality, subsampling in ((90, "4:2:0"), (95, "4:4:4")):
            buffer = io.BytesIO()
            part.save(buffer, "jpeg", quality=quality, subsampling=subsampling)
            files.append(buffer.getvalue())
    return files


def official(config: VisionPreprocessConfig) -> Callable[[bytes], Tensor]:
    """JPEG -> normalised float32 (3, S, S)."""
    transforms = import_module("torchvision.transforms")
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE, config.scale, config.ratio, _bicubic()),
            transforms.RandomHorizontalFlip(config.hflip),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )

    def load(data: bytes) -> Tensor:
        image: Tensor = augment(Image.open(io.BytesIO(data)).convert("RGB"))
        return image

    return load


def ours(preprocess: VisionPreprocess, crops: int = 1) -> Callable[[bytes], list[Tensor]]:
    """JPEG -> so many uint8 (3, S, S)."""
    codec, generator = VisionCodec(), torch.Generator().manual_seed(0)

    def load(data: bytes) -> list[Tensor]:
        sample = codec.decode({"jpg": data})
        return [preprocess.augment(sample, generator)["image"] for _ in range(crops)]

    return load


def difference(preprocess: VisionPreprocess, files: list[bytes]) -> tuple[float, int]:
    """Mean and largest absolute difference of the same crops, in grey levels."""
    crop = import_module("torchvision.transforms.functional").resized_crop
    codec, generator, found = VisionCodec(), torch.Generator().manual_seed(0), []
    for data in files:
        image = codec.decode({"jpg": data})["image"]
        assert isinstance(image, Tensor)
        box = preprocess.crop_box(*SHAPE, generator)
        theirs = crop(Image.open(io.BytesIO(data)).convert("RGB"), *box, [SIZE, SIZE], _bicubic())
        mine = preprocess.crop(image, box).permute(1, 2, 0).numpy()
        found.append(np.abs(mine.astype(int) - np.asarray(theirs)))
    return float(np.mean(found)), int(np.max(found))


def _bicubic() -> object:
    return import_module("torchvision.transforms").InterpolationMode.BICUBIC


def _all(load: Callable[[bytes], object], files: list[bytes]) -> None:
    for data in files:
        load(data)


def main() -> None:
    """Compares, then times."""
    torch.set_num_threads(1)
    config, files = VisionPreprocessConfig(), photographs()
    preprocess = VisionPreprocess(config, img_size=SIZE, in_chans=3)
    mean, most = difference(preprocess, files)
    sizes = sum(map(len, files)) / len(files) / 1e3
    print(
        f"{len(files)} JPEGs of {sizes:.0f} kB; crops differ by {mean:.3f}, at most {most} of 255"
    )
    views = {"official": 1, "zoo": 1, "zoo, 2 crops a picture": 2, "zoo, 4 crops a picture": 4}
    work: dict[str, Callable[[], object]] = {
        name: partial(_all, ours(preprocess, count) if number else official(config), files)
        for number, (name, count) in enumerate(views.items())
    }
    batch = torch.zeros(len(files), 3, SIZE, SIZE, dtype=torch.uint8)
    statistics = [torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std)]
    work["zoo, normalising on this device"] = lambda: normalized(batch, *statistics, size=SIZE)
    seconds = {
        name: [second / len(files) / views.get(name, 1) for second in found]
        for name, found in alternate(work, ROUNDS, time.process_time).items()
    }
    print("one crop:")
    report("vision_pipeline", seconds, base="official")


if __name__ == "__main__":
    main()
