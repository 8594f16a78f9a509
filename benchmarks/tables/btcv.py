"""VoCo's table on BTCV: 13 abdominal organs on CT, from 24 labelled volumes.

    python -m zoo.benchmarks.tables.btcv voco-base --weights VoCo_B_SSL_head.pt --source BTCV

It has been run on made-up volumes in BTCV's folder layout only, never on BTCV itself. SOURCE holds
`imagesTr/img0001.nii.gz`, `labelsTr/label0001.nii.gz` and `dataset.json` with the files of
"training" (24) and "validation" (6), which the numbers are of. The protocol is VoCo's (arXiv
2410.09890): 1.5 mm, HU -175 to 250, 4 crops of 96^3 a step, AdamW 3e-4, 1000 epochs, sliding window
with an overlap of 0.75. What differs:

- Dice is measured at 1.5 mm within the foreground; no turns by 90 degrees in training.
- bfloat16 instead of float16 on a GPU, float32 without one.

Its unlabelled scans held the validation scans of BTCV: published numbers are no numbers of unseen
scans, and neither are those of the published weights. Intervals are 95 % bootstrap intervals over
seeds.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import click
from zoo.benchmarks.tables.models import published
from zoo.benchmarks.tables.options import source_option, table_options
from zoo.benchmarks.tables.volumes import Case, Table, constants, load, write_cases
from zoo.registry.schema import override

from zoo.errors import UsageError
from zoo.files import cache_folder

__all__ = ["ORGANS", "cases", "command", "expected"]

ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach"),
    *("aorta", "inferior vena cava", "portal and splenic veins", "pancreas"),
    *("right adrenal", "left adrenal"),
)
# Mean Dice in per cent on the same split, with the same network; of the same page as VoCo's own.
PEERS = {"SwinUNETR-SSL": 82.58, "Universal": 83.74, "UniMiSS": 81.85, "SuPreM": 85.32}
SCRATCH = 82.79


def expected(model: str) -> dict[str, str]:
    """Line -> mean Dice in per cent: of a model that the card has a result of, and from scratch."""
    for value in published(model, "BTCV", "Dice %").values():
        return {"fine-tuned": f"{value:g}%", "from scratch": f"{SCRATCH:g}%"}
    return {}


def cases(source: Path, split: str) -> list[Case]:
    """Those that `dataset.json` lists under "training" or "validation".

    Raises:
        UsageError: there is no such list.
    """
    path = source / "dataset.json"
    try:
        rows = cast("Sequence[Mapping[str, str]]", json.loads(path.read_text())[split])
        pairs = [(source / row["image"], source / row["label"]) for row in rows]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; it lists the files of both splits") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f'{path}: no list "{split}" of pairs of "image" and "label"') from None
    return [
        Case(image.name.partition(".")[0], {"ct.nii.gz": image, "seg.nii.gz": label})
        for image, label in pairs
    ]


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
    """MODEL's table on BTCV; KEY=VALUE changes the recipe of every line.

    Shards are kept in zoo's cache ($ZOO_CACHE).
    """
    encoder = load(model, weights)
    spacing = constants(encoder).spacing
    folder = cache_folder() / "btcv"
    found = {split: cases(source, split) for split in ("training", "validation")}
    shards = {name: write_cases(some, folder / name, spacing) for name, some in found.items()}
    counts = ", ".join(f"{len(some)} {split}" for split, some in found.items())
    click.echo(f"BTCV from {source}: {counts} (published: 24 and 6)")
    known = expected(model)
    peers = ", ".join(f"{name} {value:g}%" for name, value in PEERS.items())
    Table(
        structures={organ: (number,) for number, organ in enumerate(ORGANS, start=1)},
        train=shards["training"],
        test=shards["validation"],
        recipe=override({}, changes),
        expected=known,
        notes=[f"published of others with this network: {peers}"] if known else [],
    ).run(model, encoder, lines, seeds, out)


if __name__ == "__main__":
    command()
