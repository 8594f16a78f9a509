"""A pretraining step of CLIP against open_clip's own loss and its training loop's order of calls.

The towers are open_clip's in both. A step of ViT-B/32 with 8 pairs shows what there is beside them;
8,192 pairs through towers of one small block show the loss, whose logits open_clip holds all at
once. Losses are compared before anything is timed. One thread, in turn, by the processor's clock;
peaks of memory in processes of their own.
"""

import importlib
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from zoo.benchmarks.speed.timing import alternate, report
from zoo.benchmarks.speed.updates import THREADS, Update, report_peaks, update_of
from zoo.modalities.vision.open_clip import OpenCLIP
from zoo.registry.build import build_encoder, build_objective, encoder_spec

SMALL = {
    **{"embed_dim": 512, "img_size": 32, "patch_size": 16, "width": 64, "depth": 1},
    **{"head_width": 32, "text_width": 64, "text_depth": 1, "text_heads": 2},
}
PAIRS, MANY, ROUNDS = 8, 8_192, 5
Loss = Callable[[Tensor, Tensor], Tensor]


def theirs(encoder: OpenCLIP) -> Loss:
    """Both towers, then logits of all pairs."""
    criterion = importlib.import_module("open_clip.loss").ClipLoss()  # comes without types

    def loss(image: Tensor, ids: Tensor) -> Tensor:
        pixels = (image.float() / 255 - encoder.mean) / encoder.std
        value: Tensor = criterion(*encoder.model(pixels, ids))
        return value

    return loss


def ours(encoder: OpenCLIP) -> Loss:
    """By the objective."""
    objective = build_objective({"name": "image_text"}, encoder)

    def loss(image: Tensor, ids: Tensor) -> Tensor:
        captions = torch.arange(len(ids)).unsqueeze(1)
        batch = {"image": image, "text_ids": ids, "caption_ids": captions}
        return objective(encoder, batch).total

    return loss


WAYS = {"open_clip": theirs, "zoo": ours}


def step(way: str, *, pairs: int, small: bool = False) -> Update:
    """One update of a model made here."""
    torch.manual_seed(0)
    encoder = build_encoder(encoder_spec("open-clip/ViT-B-32", SMALL if small else {}))
    assert isinstance(encoder, OpenCLIP)
    side, length = encoder.preprocess.img_size, encoder.preprocess.context_length
    image = torch.randint(256, (pairs, 3, side, side), dtype=torch.uint8)
    ids = torch.randint(1, 49_407, (pairs, length))
    ids[:, -1] = 49_407  # the end, whose vector is the text's
    return update_of(WAYS[way](encoder), encoder.parameters(), (image, ids), fused=True)


def main() -> None:
    """Says what each needs, compares losses, then times."""
    torch.set_num_threads(THREADS)
    many = {f"{way}, {MANY} pairs": partial(step, way, pairs=MANY, small=True) for way in WAYS}
    report_peaks("clip_step", many)
    work = {way: step(way, pairs=PAIRS) for way in WAYS}
    for way, update in work.items():
        print(f"{way:<34} loss {update():.6f}")
    report("clip_step", alternate(work, ROUNDS, time.process_time), base="open_clip")


if __name__ == "__main__":
    main()
