"""Segmentation by a pretrained encoder, fine-tuned or frozen, and its Dice on whole volumes.

The network is `encoder.segmenter`; loss, sliding window and Dice are MONAI's. Shards hold classes
as the sequence `seg` of each volume (`zoo.modalities.volume.volume.LABELS`), on the same grid.

Notation: B volumes or crops, C sequences, X, Y, Z voxels, K structures, V test volumes.
"""

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import UsageError
from zoo.modalities.contracts import Encoder
from zoo.modalities.volume.transforms import pad_to
from zoo.probes.heads import seeded, update
from zoo.probes.volumes import LabelledVolumes, Structures, are_exclusive
from zoo.registry.recipe import TrainRecipe
from zoo.training.groups import parameter_groups
from zoo.training.schedule import build_schedule

__all__ = [
    "DiceScore",
    "Segmentable",
    "SegmentationRecipe",
    "measure_segmenter",
    "predict_structures",
    "probe_segmentation",
    "train_segmenter",
]


@runtime_checkable
class Segmentable(Protocol):
    """An encoder that has a segmentation network."""

    def segmenter(self, out_channels: int) -> nn.Module:
        """(B, C, X, Y, Z) -> (B, out_channels, X, Y, Z), with a copy of the encoder's weights."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationRecipe:
    """How a network is trained; the defaults are VoCo's on BTCV (arXiv 2410.09890)."""

    epochs: int = 1000
    warmup: int = 20  # epochs
    batch_size: int = 1  # volumes of a step
    crops: int = 4  # of each
    roi: tuple[int, int, int] = (96, 96, 96)  # voxels of a crop, and of the sliding window
    positive: float = 0.5  # share of the crops whose middle is labelled; the others' is anywhere
    lr: float = 3e-4
    weight_decay: float = 1e-5
    clip_grad: float = math.inf
    frozen: bool = False  # the encoder stays as it is, the decoder alone is trained
    # Of a crop: chance of a mirror image along each axis, and by how much it is scaled and shifted.
    flip: float = 0.2
    scale_intensity: float = 0.1
    shift_intensity: float = 0.1
    overlap: float = 0.75  # of neighbouring windows

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.crops, *self.roi) < 1:
            raise ValueError("epochs, batch_size, crops and roi must be at least 1")
        if not 0.0 <= self.overlap < 1.0 or not 0.0 <= self.positive <= 1.0:
            raise ValueError("overlap and positive must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DiceScore:
    """What a segmentation is worth."""

    names: tuple[str, ...]  # K
    dice: NDArray[np.float64]  # (V, K), NaN where a volume does not hold the structure
    protocol: str

    @property
    def structures(self) -> dict[str, float]:
        """Mean over the volumes that hold a structure; NaN where none does."""
        held = np.isfinite(self.dice)
        totals = np.nansum(self.dice, axis=0)
        means = np.divide(totals, held.sum(axis=0), where=held.any(axis=0), out=totals * np.nan)
        return dict(zip(self.names, means.tolist(), strict=True))

    @property
    def mean(self) -> float:
        """Mean over the structures that any volume holds."""
        found = [value for value in self.structures.values() if not math.isnan(value)]
        return float(np.mean(found)) if found else math.nan


def probe_segmentation(
    encoder: Encoder,
    train: str | Path,
    test: str | Path,
    structures: Structures,
    *,
    recipe: SegmentationRecipe,
    seed: int = 0,
) -> DiceScore:
    """Trains a network on labelled volumes and measures it on others.

    Args:
        encoder: stays as it is.
        train: shards whose volumes have the sequence `seg`.
        test: likewise; nothing is chosen on them, the last weights count.
        structures: name -> the classes that it consists of.
        recipe: optimisation, and the window of inference.
        seed: of the decoder, the order, the crops and their augmentation.

    Raises:
        DataError: a volume has no labels; says where it is.
        UsageError: the encoder has no segmentation network, there is no volume, or MONAI is
            missing.
    """
    network = train_segmenter(LabelledVolumes(encoder, train, structures), recipe, seed=seed)
    return measure_segmenter(network, LabelledVolumes(encoder, test, structures), recipe)


def train_segmenter(
    volumes: LabelledVolumes, recipe: SegmentationRecipe, *, seed: int
) -> nn.Module:
    """The trained network, in eval mode: K + 1 channels for the softmax, or K sigmoids.

    Structures that share classes have a sigmoid each, others exclude one another.
    """
    if not len(volumes):
        raise UsageError("segmentation needs volumes to train on")
    device, exclusive = volumes.device, are_exclusive(volumes.structures)
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed, device):
        network = _network(volumes, recipe).to(device)
    loss_of = _loss(exclusive=exclusive)
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(named, recipe.weight_decay), recipe.lr)
    plan = TrainRecipe(
        batch_size=recipe.batch_size, epochs=recipe.epochs, warmup=recipe.warmup, lr=recipe.lr
    )
    schedule, step = build_schedule(plan, len(volumes)), 0
    network.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(len(volumes), generator=generator)
        for part in order.split(recipe.batch_size):
            crops = [
                crop
                for index in part.tolist()
                for crop in _crops(*volumes.read(index), recipe, generator)
            ]
            x, y = (torch.stack(parts).to(device) for parts in zip(*crops, strict=True))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = network(x)
            update(optimizer, loss_of(logits.float(), y), schedule(step), recipe.clip_grad)
            step += 1
    return network.eval()


@torch.inference_mode()
def measure_segmenter(
    network: nn.Module, volumes: LabelledVolumes, recipe: SegmentationRecipe
) -> DiceScore:
    """Dice of whole volumes, on the grid that the encoder works on (its spacing and foreground)."""
    if not len(volumes):
        raise UsageError("segmentation needs volumes to test on")
    compute_dice = _monai("metrics", "compute_dice")
    rows, names = [], tuple(volumes.structures)
    for index in range(len(volumes)):
        volume, wanted = volumes.read(index)
        found = predict_structures(network, volume, volumes.structures, recipe)
        wanted = _apart(wanted, len(names), exclusive=are_exclusive(volumes.structures))
        rows.append(compute_dice(found[None].float(), wanted[None].float())[0])
    trained = "frozen encoder" if recipe.frozen else "fine-tuned"
    return DiceScore(
        names=names,
        dice=torch.stack(rows).double().numpy(),
        protocol=(
            f"{trained}, {recipe.epochs} epochs of batches of {recipe.batch_size} x {recipe.crops} "
            f"crops of {' x '.join(map(str, recipe.roi))}, lr {recipe.lr:g}, sliding window with "
            f"overlap {recipe.overlap:g}, {len(volumes)} test volumes"
        ),
    )


@torch.inference_mode()
def predict_structures(
    network: nn.Module, volume: Tensor, structures: Structures, recipe: SegmentationRecipe
) -> Tensor:
    """(C, X, Y, Z) -> bool (K, X, Y, Z), by a sliding window that is put together on the host."""
    slide = _monai("inferers", "sliding_window_inference")
    device = next(network.parameters()).device
    logits: Tensor = slide(
        volume[None],
        recipe.roi,
        recipe.crops,
        network,
        overlap=recipe.overlap,
        sw_device=device,
        device="cpu",
    )
    if are_exclusive(structures):
        return _apart(logits[0].argmax(dim=0, keepdim=True), len(structures), exclusive=True)
    return logits[0] > 0


def _network(volumes: LabelledVolumes, recipe: SegmentationRecipe) -> nn.Module:
    encoder = volumes.encoder
    if not isinstance(encoder, Segmentable):
        raise UsageError(f"{type(encoder).__name__} has no segmentation network (`segmenter`)")
    network = encoder.segmenter(len(volumes.structures) + are_exclusive(volumes.structures))
    if recipe.frozen:
        own = encoder.state_dict().keys()
        for name, parameter in network.named_parameters():
            # MONAI's UNETR keeps the encoder as `vit`, a U-Net of zoo as `encoder`.
            bare = name.removeprefix("vit.").removeprefix("encoder.")
            parameter.requires_grad_(bare not in own)
    return network


def _loss(*, exclusive: bool) -> Callable[[Tensor, Tensor], Tensor]:
    loss: Callable[[Tensor, Tensor], Tensor] = _monai("losses", "DiceCELoss")(
        to_onehot_y=exclusive,
        softmax=exclusive,
        sigmoid=not exclusive,
        include_background=not exclusive,  # which small organs would drown in
    )
    return loss


def _crops(
    volume: Tensor, wanted: Tensor, recipe: SegmentationRecipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """(C, *roi) and (1 or K, *roi), as float, of one volume."""
    volume, wanted = pad_to(volume, recipe.roi), pad_to(wanted, recipe.roi)
    spare = torch.tensor(volume.shape[1:]) - torch.tensor(recipe.roi)
    labelled = wanted.any(dim=0).flatten().nonzero().flatten()
    for _ in range(recipe.crops):
        start = (torch.rand(3, generator=generator) * (spare + 1)).long()
        chance = torch.rand(4, generator=generator)
        if len(labelled) and chance[3] < recipe.positive:
            place = labelled[torch.randint(len(labelled), (), generator=generator)]
            middle = torch.stack(torch.unravel_index(place, wanted.shape[1:]))
            start = (middle - torch.tensor(recipe.roi) // 2).clamp(min=0).minimum(spare)
        box = tuple(
            slice(begin, begin + size)
            for begin, size in zip(start.tolist(), recipe.roi, strict=True)
        )
        axes = [axis + 1 for axis in range(3) if chance[axis] < recipe.flip]
        x, y = volume[:, *box].flip(axes), wanted[:, *box].flip(axes)
        scale, shift = 2 * torch.rand(2, len(x), 1, 1, 1, generator=generator) - 1
        x = x * (1 + recipe.scale_intensity * scale) + recipe.shift_intensity * shift
        yield x, y.float()


def _apart(classes: Tensor, count: int, *, exclusive: bool) -> Tensor:
    """(1, X, Y, Z) numbers of structures, 0 for none, or (K, X, Y, Z), as bool (K, X, Y, Z)."""
    if not exclusive:
        return classes.bool()
    return classes == torch.arange(1, count + 1).view(-1, 1, 1, 1)


def _monai(module: str, name: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(f"monai.{module}"), name)
    except ImportError:
        raise UsageError(
            "segmentation needs the package monai: pip install 'zoo[volume]'"
        ) from None
    return found
