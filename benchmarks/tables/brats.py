"""Brain tumours on BraTS2021: BM-MAE's protocol (arXiv 2505.00568) and VoCo's (arXiv 2410.09890).

    python -m zoo.benchmarks.tables.brats bm-mae-base --weights bmmae.pth --source BraTS2021
    python -m zoo.benchmarks.tables.brats bm-mae-base --source BraTS2021 --sequences t1,flair

It has been run on made-up volumes in the data set's folder layout only, never on BraTS itself.
SOURCE holds `BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz` and so on, `_seg` among them. Regions
overlap and have a sigmoid each: tumour core, whole tumour, enhancing tumour. With --sequences
encoder and network see these alone, as in BM-MAE's subsets. What differs:

- The split: every fifth case is a test case, --fold says which; BM-MAE's own lists are not public,
  VoCo's five folds neither.
- VoCo's network had four classes for a softmax; here both have the regions.
- Crops of 128^3 in training are from anywhere, every second one around a tumour; BM-MAE's was the
  centre. Whole volumes are tested, by a sliding window.

Published: BM-MAE's tables could not be checked yet. VoCo's author says "about 91" of its own.
BM-MAE's `brats21` weights have seen all of BraTS2021, without labels.
"""

from collections.abc import Mapping
from pathlib import Path

import click
from zoo.benchmarks.tables.options import source_option, table_options
from zoo.benchmarks.tables.volumes import Case, Table, constants, load, write_cases
from zoo.modalities.contracts import Encoder
from zoo.modalities.volume.swin import Swin3D
from zoo.registry.schema import override

from zoo.errors import UsageError
from zoo.files import cache_folder

__all__ = ["REGIONS", "cases", "command"]

SEQUENCES = ("t1", "t1ce", "t2", "flair")
REGIONS = {"tumour core": (1, 4), "whole tumour": (1, 2, 4), "enhancing tumour": (4,)}
FOLDS = 5
_PREPROCESS: dict[str, object] = {
    **{"modality": "mr", "spacing": [1.0, 1.0, 1.0], "intensity": "z-score"},
    **{"crop_foreground": False, "size": [128, 128, 128]},
}
_VOCO: dict[str, object] = {"epochs": 100, "warmup": 5, "crops": 1}
_BM_MAE: dict[str, object] = {
    **{"epochs": 70, "warmup": 10, "batch_size": 2, "crops": 1, "lr": 5e-4, "weight_decay": 0.05},
    **{"flip": 0.5, "scale_intensity": 0.1, "shift_intensity": 0.1},
}


def cases(source: Path) -> list[Case]:
    """Every folder of a case, by name, with all of its sequences.

    Raises:
        UsageError: there is none.
    """
    folders = sorted(path for path in source.glob("BraTS*_*") if path.is_dir())
    if len(folders) < FOLDS:
        raise UsageError(f"{source}: {len(folders)} folders like BraTS2021_00000, wanted {FOLDS}")
    return [
        Case(
            folder.name,
            {f"{name}.nii.gz": folder / f"{folder.name}_{name}.nii.gz" for name in SEQUENCES}
            | {"seg.nii.gz": folder / f"{folder.name}_seg.nii.gz"},
        )
        for folder in folders
    ]


def _recipe(encoder: Encoder, changes: Mapping[str, object]) -> dict[str, object]:
    """The one of its paper; crops are as large as the encoder's volumes."""
    own = _VOCO if isinstance(encoder, Swin3D) else _BM_MAE
    return {**own, "roi": list(constants(encoder).size), **changes}


@click.command()
@table_options
@source_option()
@click.option("--sequences", default=",".join(SEQUENCES), show_default=True, help="For a name.")
@click.option("--fold", type=click.IntRange(0, FOLDS - 1), default=0, show_default=True)
def command(
    model: str,
    changes: tuple[str, ...],
    weights: Path | None,
    source: Path,
    sequences: str,
    fold: int,
    lines: tuple[str, ...],
    out: Path | None,
) -> None:
    """MODEL's table on BraTS2021; KEY=VALUE changes the recipe of every line.

    Shards are kept in zoo's cache ($ZOO_CACHE).
    """
    names = sequences.split(",")
    if unknown := set(names) - set(SEQUENCES):
        raise UsageError(f"no sequence {', '.join(sorted(unknown))}: {', '.join(SEQUENCES)}")
    encoder = load(model, weights, {**_PREPROCESS, "sequences": names})
    spacing = constants(encoder).spacing
    folder = cache_folder() / "brats"
    found = cases(source)
    sides = {
        "train": [case for number, case in enumerate(found) if number % FOLDS != fold],
        "test": found[fold::FOLDS],
    }
    shards = {
        name: write_cases(some, folder / f"{name}-{fold}", spacing) for name, some in sides.items()
    }
    used = ", ".join(constants(encoder).sequences)
    click.echo(f"BraTS from {source}: {len(found)} cases (published: 1251), fold {fold}, {used}")
    expected = {"fine-tuned": "about 91%"} if model.startswith("voco") else {}
    Table(
        structures=REGIONS,
        train=shards["train"],
        test=shards["test"],
        recipe=_recipe(encoder, override({}, changes)),
        expected=expected,
    ).run(model, encoder, lines, 1, out)


if __name__ == "__main__":
    command()
