"""CLIP without training: classes of ImageNet and its variants by name, and image-text retrieval.

    python -m zoo.benchmarks.tables.clip_zeroshot open-clip/ViT-B-32.laion2b_s34b_b79k --source DATA

It has been run on made-up images in the sets' folder layouts only, never on the sets themselves.
DATA holds those of these that are measured; others are left out, and said to be:

- `imagenet`, `imagenet-v2`, `imagenet-sketch`, `imagenet-a`, `imagenet-r`: images of the test set
  in a folder a class, which is called by its WordNet id, or by its number (v2).
- `flickr30k`, `coco`: Karpathy's split, as `dataset.json` with the images in any folders below.

A class is the mean vector of OpenAI's 80 templates (arXiv 2103.00020) with its name, both as
open_clip has them; it competes with the classes that the folder holds, which are 200 of 1,000 in
imagenet-a and -r. In retrieval each caption looks for its image, and each image for any of its
captions, among all of the test split. Numbers are in per cent.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from zoo.benchmarks.tables.clip_published import PUBLISHED
from zoo.benchmarks.tables.models import load
from zoo.benchmarks.tables.options import model_options, source_option
from zoo.modalities.contracts import Encoder
from zoo.modalities.towers import TwoTowerEncoder
from zoo.modalities.vision.open_clip import open_clip
from zoo.registry.catalogue import find, is_folder

from zoo.errors import DataError, UsageError
from zoo.files import write_atomic
from zoo.probes.zero_shot import recall_at, zero_shot_classifier, zero_shot_predict
from zoo.text import columns

__all__ = ["CLASSES", "PAIRS", "Pairs", "classify", "command", "read_pairs", "retrieve"]

CLASSES = ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
PAIRS = ("flickr30k", "coco")
AMONG = (1, 5)
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_TOGETHER = 1_000  # queries whose similarities are in memory


@dataclass(frozen=True, slots=True)
class Pairs:
    """N images, their M captions, and the image (M,) that each caption is of."""

    images: Sequence[Path]
    captions: Sequence[str]
    owner: NDArray[np.int64]


def classify(encoder: TwoTowerEncoder, folder: Path) -> dict[str, float]:
    """Accuracy in per cent on a folder a class, by the name "accuracy".

    Raises:
        UsageError: a folder is called like no class of ImageNet, or there is none.
    """
    library = open_clip()
    found = {path: _class_of(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not found:
        raise UsageError(f"{folder}: no folder there; images lie in one for each class")
    names = [library.IMAGENET_CLASSNAMES[number] for number in found.values()]
    templates = [template("{}") for template in library.OPENAI_IMAGENET_TEMPLATES]
    classifier = zero_shot_classifier(encoder, names, templates)
    files = [
        (file, place)
        for place, path in enumerate(found)
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in _IMAGES
    ]
    guessed = zero_shot_predict(encoder, [file for file, _ in files], classifier)
    return {"accuracy": 100 * float((guessed == [place for _, place in files]).mean())}


def _class_of(path: Path) -> int:
    """The number of a class that a folder is called by."""
    ids = import_module("timm.data").ImageNetInfo("imagenet-1k").label_names()
    if path.name in ids:
        return int(ids.index(path.name))
    if path.name.isdecimal() and int(path.name) < len(ids):
        return int(path.name)
    raise UsageError(f"{path}: neither the WordNet id nor the number of one of ImageNet's classes")


def read_pairs(folder: Path) -> Pairs:
    """The test split of `dataset.json`.

    Raises:
        UsageError: there is no such file.
        DataError: it is another one, or an image is missing.
    """
    path = folder / "dataset.json"
    try:
        rows = json.loads(path.read_text())["images"]
        test = [
            (row["filename"], [sentence["raw"] for sentence in row["sentences"]])
            for row in rows
            if row["split"] == "test"
        ]
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; it is Karpathy's split with captions"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not Karpathy's list of images, sentences and splits") from None
    files = {file.name: file for file in folder.rglob("*") if file.suffix.lower() in _IMAGES}
    if missing := [name for name, _ in test if name not in files]:
        raise DataError(f"{folder}: {len(missing)} images are missing, such as {missing[0]}")
    return Pairs(
        [files[name] for name, _ in test],
        [caption for _, captions in test for caption in captions],
        np.repeat(np.arange(len(test)), [len(captions) for _, captions in test]),
    )


def retrieve(encoder: TwoTowerEncoder, pairs: Pairs) -> dict[str, float]:
    """Recall in per cent, by "image R@1" (captions find images), "text R@1" and so on."""
    images = normalize(torch.from_numpy(encoder.embed(pairs.images)), dim=1)
    captions = torch.cat([*_vectors(encoder, pairs.captions)])
    owner, everyone = torch.from_numpy(pairs.owner), torch.arange(len(images))
    return {
        **{f"image R@{k}": _recall(captions, images, owner, everyone, k) for k in AMONG},
        **{f"text R@{k}": _recall(images, captions, everyone, owner, k) for k in AMONG},
    }


@torch.inference_mode()
def _vectors(encoder: TwoTowerEncoder, texts: Sequence[str]) -> Iterator[Tensor]:
    for start in range(0, len(texts), _TOGETHER):
        part = texts[start : start + _TOGETHER]
        yield encoder.encode_text(part, normalize=True).float().cpu()


def _recall(queries: Tensor, keys: Tensor, own: Tensor, of_key: Tensor, k: int) -> float:
    """A key is right where it is of the same image as the query."""
    found = 0.0
    for some, image in zip(queries.split(_TOGETHER), own.split(_TOGETHER), strict=True):
        found += len(some) * recall_at(some, keys, image[:, None] == of_key, k)
    return 100 * found / len(queries)


def _measured(encoder: TwoTowerEncoder, source: Path, name: str) -> dict[str, float]:
    folder = source / name
    return classify(encoder, folder) if name in CLASSES else retrieve(encoder, read_pairs(folder))


def _known(model: str) -> Mapping[str, Mapping[str, float]]:
    """What was published of a model: data set -> measure -> per cent."""
    if is_folder(model):
        return {}
    row, tag = find(model)
    return PUBLISHED.get(f"{row.name.partition('.')[0]}.{tag or ''.join(row.tags[:1])}", {})


def _of_pairs(encoder: Encoder, model: str) -> TwoTowerEncoder:
    if not isinstance(encoder, TwoTowerEncoder) or encoder.modality != "vision":
        raise UsageError(f"{model}: this table needs an encoder of images and of texts")
    return encoder


@click.command()
@model_options
@source_option("Holds a folder for each set.")
@click.option("--set", "names", type=click.Choice([*CLASSES, *PAIRS]), multiple=True)
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file for all numbers.")
def command(
    model: str, weights: Path | None, source: Path, names: tuple[str, ...], out: Path | None
) -> None:
    """MODEL's zero-shot accuracy and retrieval, published numbers beside."""
    chosen = names or [name for name in (*CLASSES, *PAIRS) if (source / name).is_dir()]
    if missing := [name for name in chosen if not (source / name).is_dir()]:
        raise UsageError(f"{source / missing[0]}: no such folder")
    if not chosen:
        raise UsageError(f"{source}: holds none of {', '.join((*CLASSES, *PAIRS))}")
    encoder, known = _of_pairs(load(model, weights), model), _known(model)
    kept: dict[str, dict[str, float]] = {}
    cells = []
    for name in chosen:
        kept[name] = _measured(encoder, source, name)
        for measure, value in kept[name].items():
            expected = known.get(name, {}).get(measure)
            said = "-" if expected is None else f"{expected:g}"
            cells.append((name, measure, f"{value:.2f}", said))
        if out is not None:  # hours lie between two sets
            write_atomic(out, json.dumps({"model": model, "sets": kept}, indent=1))
    click.echo(columns(("set", "measure", "value", "published"), cells))
    if left := [name for name in (*CLASSES, *PAIRS) if name not in chosen]:
        click.echo(f"left out: {', '.join(left)}")


if __name__ == "__main__":
    command()
