"""MAE's table on ImageNet-1k: fine-tuning, linear probing, and DINO's kNN.

    python -m zoo.benchmarks.tables.imagenet_mae mae-base --source ILSVRC2012

It has been run on made-up images in ImageNet's folder layout only, never on ImageNet itself. SOURCE
holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. The recipes are those of MAE (arXiv 2111.06377,
its FINETUNE.md); the kNN is DINO's (arXiv 2104.14294), k = 20. What differs:

- Fine-tuning crops at random and mirrors. Upstream also has RandAugment, random erasing, mixup,
  cutmix and label smoothing: expect to end a point or two below.
- For linear probing features are computed once, from centre crops. Upstream crops at random.

The published weights are CC-BY-NC-4.0. Intervals are 95 % bootstrap intervals over seeds.
"""

from collections.abc import Mapping
from pathlib import Path

import click
from zoo.benchmarks.tables.images import Line, Table, place_of
from zoo.benchmarks.tables.models import published, size_of
from zoo.benchmarks.tables.options import source_option, table_options
from zoo.registry.schema import override

from zoo.data.building.build import build_shards
from zoo.data.building.folders import folder_source
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.errors import UsageError

__all__ = ["command", "lines_of"]

NAME, COUNTS = "ImageNet-1k", {"train": 1_281_167, "val": 50_000}
_FREE = float("inf")  # gradients are not clipped
# Layer decay, drop path, epochs and base rate of fine-tuning; others are tuned as base is.
_SIZES = {"large": (0.75, 0.2, 50, 1e-3), "huge": (0.75, 0.3, 50, 1e-3)}
_BASE = (0.65, 0.1, 100, 5e-4)


def lines_of(size: str) -> tuple[Line, ...]:
    """The table's lines for a size of the card."""
    decay, drop_path, epochs, base_lr = _SIZES.get(size, _BASE)
    tuned: Mapping[str, object] = {
        **{"head": "linear", "epochs": epochs, "batch_size": 1024, "lr": base_lr * 4},
        **{"warmup": 5 / epochs, "weight_decay": 0.05, "layer_decay": decay, "clip_grad": _FREE},
    }
    probed: Mapping[str, object] = {
        **{"optimizer": "lars", "standardize": "batch", "epochs": 90, "batch_size": 16_384},
        **{"lr": 6.4, "warmup": 10 / 90, "weight_decay": 0.0, "clip_grad": _FREE},
    }
    return (
        Line(
            name="fine-tune 224",
            kind="finetune",
            options=tuned,
            encoder={"pool": "mean_norm", "drop_path": drop_path},
        ),
        Line(name="linear probe", kind="linear", options=probed),
        Line(name="kNN", kind="knn"),
    )


def shards(source: Path, split: str) -> Path:
    """Shards of a split, with classes by folder name; made once for a source.

    Raises:
        UsageError: there is no such folder.
    """
    folder = source / split
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; ImageNet lies in train/CLASS and val/CLASS")
    place = place_of(source, "imagenet") / split
    if not (place / MANIFEST).exists():
        build_shards(folder_source(folder, label_from_folder=True), place, progress=True)
    return place


@click.command()
@table_options
@source_option()
@click.option("--seeds", default=1, show_default=True)
def command(
    model: str,
    changes: tuple[str, ...],
    weights: Path | None,
    source: Path,
    lines: tuple[str, ...],
    seeds: int,
    out: Path | None,
) -> None:
    """MODEL's table on ImageNet-1k; KEY=VALUE changes the recipe of every line.

    Shards are kept in zoo's cache ($ZOO_CACHE).
    """
    found = {split: shards(source, split) for split in COUNTS}
    said = [f"{len(ShardSet(found[name])):,} {name} ({COUNTS[name]:,})" for name in COUNTS]
    click.echo(f"{NAME} from {source}: {', '.join(said)}")
    Table(
        train=found["train"],
        test=found["val"],
        lines=lines_of(size_of(model)),
        metric="accuracy",
        expected=published(model, NAME, "accuracy@1"),
        changes=override({}, changes),
    ).run(model, weights, lines, seeds, out)


if __name__ == "__main__":
    command()
