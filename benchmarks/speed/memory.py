"""Memory of the loader and its workers over 20 epochs; it should not grow.

Proportional set sizes (shared pages counted once) of this process and its workers, after each
epoch over 1,000 synthetic images, decoded and cropped as for training, and with every third epoch
begun anew from a position, as after a stop.
"""

import json
import os
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from zoo.benchmarks.speed.data import images, written
from zoo.benchmarks.speed.timing import RESULTS
from zoo.modalities.vision.codec import VisionCodec
from zoo.modalities.vision.preprocess import VisionPreprocess, VisionPreprocessConfig
from zoo.registry.recipe import LoaderRecipe

from zoo.data.loader import Loader
from zoo.data.shards import ShardSet

EPOCHS, BATCH, SAMPLES = 20, 50, 1_000


def proportional_bytes() -> int:
    """Of this process and all its children, in bytes."""
    total = 0
    for process in [os.getpid(), *_children(os.getpid())]:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += sum(int(line.split()[1]) for line in text.splitlines() if line[:4] == "Pss:")
    return total * 1024


def _children(parent: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def main() -> None:
    """Prints one line an epoch; keeps them as JSON."""
    torch.set_num_threads(1)
    preprocess = VisionPreprocess(VisionPreprocessConfig(), img_size=224, in_chans=3)
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), islice(images(), SAMPLES), 4)
        loader = Loader(
            shards=ShardSet(folder),
            decode=VisionCodec().decode,
            prepare=preprocess.augment,
            collate=preprocess.collate,
            batch_size=BATCH,
            recipe=LoaderRecipe(workers=2),
            seed=0,
        )
        steps, sizes = loader.iterate(0), []
        for epoch in range(EPOCHS):
            if epoch % 3 == 2:
                steps.close()
                steps = loader.iterate(epoch * SAMPLES)
            for _ in range(SAMPLES // BATCH):
                next(steps)
            sizes.append(proportional_bytes())
            bar = "#" * round(sizes[-1] / max(sizes) * 40)
            print(f"epoch {epoch:>2}  {sizes[-1] / 1e6:7.1f} MB  {bar}")
        steps.close()
    slope = np.polyfit(np.arange(EPOCHS - 5), sizes[5:], 1)[0]
    print(f"after the first five epochs: {slope / 1e6:+.2f} MB an epoch")
    rows = {"epochs_bytes": sizes, "slope_bytes_per_epoch_after_5": round(slope)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data_memory.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
