"""Medical MAE's table on NIH ChestX-ray14: 14 findings on frontal chest X-rays.

    python -m zoo.benchmarks.tables.chestxray14 medical-mae-small --weights W.pth --source NIH

It has been run on made-up images in the data set's layout only, never on the data set itself.
SOURCE holds `Data_Entry_2017.csv` (or `Data_Entry_2017_v2020.csv`), the official lists
`train_val_list.txt` and `test_list.txt`, and the images in any folders below. The recipe is that of
arXiv 2210.12843 (lambert-x/medical_mae). What differs:

- Training is on all of the official training list (86,524); upstream holds 11,212 of them back, and
  reports the epoch that is best on these. Here the last epoch counts.
- Training views are crops and mirror images; upstream also has RandAugment.
- AUROC is the mean over the findings that the test samples have; upstream's metric counts a finding
  that cannot be measured as 0.

Intervals are 95 % bootstrap intervals over seeds.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from zoo.benchmarks.tables.images import Line, Table, place_of
from zoo.benchmarks.tables.models import published
from zoo.benchmarks.tables.options import source_option, table_options
from zoo.registry.schema import override

import zoo
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.errors import DataError, UsageError

__all__ = ["FINDINGS", "LINES", "PEERS", "command", "shards"]

NAME = "ChestX-ray14"
LISTS = {"train_val_list.txt": 86_524, "test_list.txt": 25_596}
FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Hernia",
)
_NOTHING = "No Finding"
# Mean AUROC in per cent on the same test images, of upstream's README.
PEERS = {
    "DenseNet-121 supervised on ImageNet": "82.2",
    "ResNet-50 MoCo v2, BYOL, SwAV on ImageNet": "80.9, 81.0, 81.5",
    "DenseNet-121 MoCo v2, MAE on X-rays": "80.6, 81.2",
    "ViT-S supervised on ImageNet": "79.6",
    "ViT-S MAE on ImageNet": "78.6",
}
_TUNED: Mapping[str, object] = {
    **{"head": "linear", "several": "bce", "epochs": 75, "batch_size": 1024, "lr": 1e-3},
    **{"warmup": 5 / 75, "weight_decay": 0.05, "layer_decay": 0.55, "clip_grad": float("inf")},
}
_PROBED: Mapping[str, object] = {"several": "bce", "epochs": 75, "batch_size": 1024, "lr": 1e-3}
LINES = (
    Line(
        name="fine-tuned",
        kind="finetune",
        options=_TUNED,
        encoder={"pool": "mean_norm", "drop_path": 0.2},
    ),
    Line(name="linear probe", kind="linear", options=_PROBED),
)


def shards(source: Path, listing: str) -> Path:
    """Shards of the images of a list, with their findings; made once for a source.

    Raises:
        UsageError: a file of the data set is missing.
        DataError: an image of the list has no row, no file, or an unknown finding.
    """
    place = place_of(source, "chestxray14") / listing.partition(".")[0]
    if not (place / MANIFEST).exists():
        zoo.write_shards(_members(source, listing), place)
    return place


def _members(source: Path, listing: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    findings = _findings(source)
    files = {path.name: path for path in source.rglob("*.png")}
    path = source / listing
    try:
        names = path.read_text().split()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; it is the official list of images") from None
    for name in names:
        if name not in findings or name not in files:
            raise DataError(f"{source}: {name} of {listing} lacks a row or a file")
        labels = json.dumps({"labels": findings[name]}).encode()
        yield name.removesuffix(".png"), {"png": files[name].read_bytes(), "json": labels}


def _findings(source: Path) -> dict[str, list[int]]:
    """Image -> numbers of its findings."""
    tables = sorted(source.glob("Data_Entry_2017*.csv"))
    if not tables:
        raise UsageError(f"{source}: no Data_Entry_2017.csv, which says what each image shows")
    known = {name: number for number, name in enumerate(FINDINGS)}
    try:
        with tables[-1].open(newline="") as file:
            return {
                row["Image Index"]: sorted(
                    known[name] for name in row["Finding Labels"].split("|") if name != _NOTHING
                )
                for row in csv.DictReader(file)
            }
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{tables[-1]}: not the data set's table ({error})") from None


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
    """MODEL's table on ChestX-ray14; KEY=VALUE changes the recipe of every line.

    Shards are kept in zoo's cache ($ZOO_CACHE).
    """
    train, test = (shards(source, listing) for listing in LISTS)
    said = [f"{len(ShardSet(one)):,}" for one in (train, test)]
    counts = " and ".join(f"{count:,}" for count in LISTS.values())
    click.echo(f"{NAME} from {source}: {' and '.join(said)} images (published: {counts})")
    expected = published(model, NAME, "AUROC %")
    peers = [f"published of {name}: {value}" for name, value in PEERS.items()]
    Table(
        train=train,
        test=test,
        lines=LINES,
        metric="auroc",
        expected=expected,
        changes=override({}, changes),
        notes=peers if expected else [],
    ).run(model, weights, lines, seeds, out)


if __name__ == "__main__":
    command()
