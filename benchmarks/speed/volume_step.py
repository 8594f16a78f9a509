"""VoCo's crops and its training step against upstream's way, restated with MONAI.

Crops: two random and nine base crops of 64^3 of a volume of 192 x 192 x 64, augmented one by one by
MONAI's transforms, with labels. Step: forward and backward of a tiny SwinUNETR encoder on the 12
crops of two volumes of 128 x 128 x 64, with MONAI's attention and its activation checkpointing,
which upstream has on by default. Losses and gradients are compared before anything is timed. On one
thread, in turn, by the processor's clock, because others use the machine; each step in a process of
its own, for the peak of its memory.
"""

import importlib
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch
from torch import Tensor
from zoo.benchmarks.speed.timing import alternate, report
from zoo.benchmarks.speed.updates import THREADS, keep_memory, megabytes
from zoo.modalities.contracts import Batch
from zoo.modalities.volume.merging import LegacyPatchMerging
from zoo.modalities.volume.preprocess import VolumePreprocessConfig
from zoo.modalities.volume.swin import Swin3D, Swin3DConfig, monai_part
from zoo.objectives.voco import VoCo, VoCoConfig
from zoo.objectives.volume_crops import base_starts, cut, random_starts

SHAPE, ROI = (192, 192, 64), 64
STEP_SHAPE, VOLUMES = (128, 128, 64), 2  # upstream needs 17 GB for two of the full shape
CONFIG = Swin3DConfig(feature_size=3, merging="legacy")
ROUNDS, STEP_ROUNDS = 20, 2
STEPS = ("upstream", "zoo", "zoo micro_batch=2")


class Upstream(Swin3D):
    """With MONAI's own attention and activation checkpointing, all crops at once."""

    def __init__(self) -> None:
        super().__init__(CONFIG, VolumePreprocessConfig())
        self.swinViT = monai_part("nets.swin_unetr", "SwinTransformer")(
            in_chans=1,
            embed_dim=CONFIG.feature_size,
            window_size=(CONFIG.window_size,) * 3,
            patch_size=(2, 2, 2),
            depths=CONFIG.depths,
            num_heads=CONFIG.num_heads,
            downsample=LegacyPatchMerging,
            use_checkpoint=True,
            use_v2=True,
        )


def pair(way: str) -> tuple[Swin3D, VoCo]:
    """Encoder and objective, with equal weights whatever the way."""
    torch.manual_seed(0)
    config = replace(CONFIG, micro_batch=2) if way.endswith("=2") else CONFIG
    encoder = Swin3D(config, VolumePreprocessConfig())
    objective = VoCo(VoCoConfig(hidden_dim=32, output_dim=32, drop=0.0), encoder)
    if way != "upstream":
        return encoder, objective
    other = Upstream()
    other.load_state_dict(encoder.state_dict())
    return other, objective


def batch_of(objective: VoCo) -> Batch:
    """Two volumes of noise, and what is cut out of them."""
    generator = torch.Generator().manual_seed(1)
    samples = [
        objective.views({"volume": torch.rand(1, *STEP_SHAPE, generator=generator)}, generator)
        for _ in range(VOLUMES)
    ]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def step(way: str) -> tuple[Callable[[], Tensor], Swin3D]:
    """Forward and backward of a model made here, which returns the loss; and its encoder."""
    encoder, objective = pair(way)
    batch = batch_of(objective)

    def run() -> Tensor:
        encoder.zero_grad()
        objective.zero_grad()
        loss = objective(encoder, batch).total
        loss.backward()
        return loss.detach()

    return run, encoder


def results(way: str) -> tuple[float, float, dict[str, float], float]:
    """Loss, seconds, norms of the gradients and megabytes above those it has with its imports."""
    torch.set_num_threads(THREADS)
    run, encoder = step(way)
    begins, began = megabytes("VmRSS"), time.process_time()
    loss = run().item()
    seconds = time.process_time() - began
    norms = {n: p.grad.norm().item() for n, p in encoder.named_parameters() if p.grad is not None}
    return loss, seconds, norms, megabytes("VmHWM") - begins


def monai_crops() -> Callable[[], object]:
    """Crops, augmentation and labels of a volume, one crop after the other."""
    transforms = importlib.import_module("monai.transforms")
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(1, *SHAPE, generator=generator)
    bases = base_starts(SHAPE, ROI)
    augment = [
        *(transforms.RandFlipd(keys="image", prob=0.2, spatial_axis=axis) for axis in range(3)),
        transforms.RandRotate90d(keys="image", prob=0.2, max_k=3),
        transforms.RandShiftIntensityd(keys="image", offsets=0.1, prob=0.5),
        transforms.ToTensord(keys="image"),
    ]

    def crop(start: list[int]) -> Tensor:
        ends = [place + ROI for place in start]
        box = transforms.SpatialCropd(keys="image", roi_start=start, roi_end=ends)
        image: Tensor = transforms.Compose([box, *augment])({"image": volume})["image"]
        return image

    def label(start: list[int]) -> Tensor:
        shares = []
        for base in bases.tolist():
            sides = [max(0, ROI - abs(a - b)) for a, b in zip(start[:2], base[:2], strict=True)]
            shares.append(sides[0] * sides[1] / ROI**2)
        return torch.tensor(shares)

    def work() -> object:
        random = random_starts(SHAPE, ROI, 2, generator).tolist()
        crops = torch.stack([crop(start) for start in [*random, *bases.tolist()]])
        return crops, torch.stack([label(start) for start in random])

    return work


def zoo_crops() -> Callable[[], object]:
    """The same, ours: what the loader's worker draws, and what the step cuts."""
    objective = VoCo(VoCoConfig(), Swin3D(CONFIG, VolumePreprocessConfig()))
    generator = torch.Generator().manual_seed(0)
    volume = torch.rand(1, *SHAPE, generator=generator)

    def work() -> object:
        drawn = objective.views({"volume": volume}, generator)
        return cut({name: value.unsqueeze(0) for name, value in drawn.items()}, ROI)

    return work


def main() -> None:
    """Compares, then times."""
    torch.set_num_threads(THREADS)
    crops = {"upstream": monai_crops(), "zoo": zoo_crops()}
    report("volume_crops", alternate(crops, ROUNDS, time.process_time), base="upstream")
    spawn = multiprocessing.get_context("spawn")
    seconds: dict[str, list[float]] = {way: [] for way in STEPS}
    peaks: dict[str, float] = {}
    wanted: tuple[float, dict[str, float]] | None = None
    for _ in range(STEP_ROUNDS):
        for way in STEPS:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                loss, took, norms, peaks[way] = pool.submit(results, way).result()
            seconds[way].append(took)
            wanted = wanted or (loss, norms)
            whole = sum(norm**2 for norm in norms.values()) ** 0.5
            apart = max(abs(norm - wanted[1][name]) for name, norm in norms.items()) / whole
            print(f"{way:<34} loss {loss:.6f}, gradients apart by {apart:.1e} of their length")
    report("volume_step", seconds, base="upstream")
    for way, peak in peaks.items():
        print(f"{way:<34} {peak:>10.0f} MB   x{peak / peaks['upstream']:.2f}")
    keep_memory("volume_step", {way: {"process_mb": round(peak)} for way, peak in peaks.items()})


if __name__ == "__main__":
    main()
