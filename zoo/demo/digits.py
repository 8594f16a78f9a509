"""Vision: an MAE on scikit-learn's handwritten digits (1,797 real 8 x 8 scans), by sample."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

import zoo
from zoo.data.building.build import write_shards
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.demo.part import Part, ScoreRow, check_reload
from zoo.modalities.contracts import Sample
from zoo.modalities.vision.codec import VisionCodec
from zoo.objectives.contract import Objective
from zoo.objectives.mae import MAE
from zoo.pretraining import restore_objective, untrained
from zoo.probing import knn_probe, linear_probe
from zoo.report.chart import Curve, chart
from zoo.report.page import picture
from zoo.runs import EXPORT

__all__ = ["MODEL", "Data", "digits_part", "files_of", "pixels", "read_digits", "write_digits"]

MODEL = "digits-mae-tiny"
QUICK = ("train.steps=20", "train.warmup=2", "train.log_every=2", "encoder.depth=2")
# Grey values are 0 to 16; times 15 they fill a byte and come back exactly.
GREY_SCALE = 15
TEST_SHARE = 0.2
FEW = 10  # labels of each class in the few-label probe
SHOWN = 12  # digits in the picture

Data = tuple[list[Sample], np.ndarray]
Caption = Callable[[int, np.random.Generator], str]  # of a digit


def write_digits(folder: Path, *, seed: int = 0, caption: Caption | None = None) -> dict[str, Path]:
    """Writes the shards of both splits; leaves complete ones as they are.

    Args:
        folder: gets `train` and `test`.
        seed: of the split, which is stratified by label.
        caption: a text that stands beside each scan.

    Returns:
        The folder of each split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    everything = np.arange(len(digits.target))
    train, test = train_test_split(
        everything, test_size=TEST_SHARE, stratify=digits.target, random_state=seed
    )
    folders = {}
    for split, chosen in (("train", np.sort(train)), ("test", np.sort(test))):
        folders[split] = folder / split
        if not (folders[split] / MANIFEST).exists():
            shutil.rmtree(folders[split], ignore_errors=True)
            samples = _samples(digits.images, digits.target, chosen, caption)
            write_shards(samples, folders[split])
    return folders


def read_digits(folder: Path) -> Data:
    """Decoded samples of a split, and their labels (N,)."""
    shards, codec = ShardSet(folder), VisionCodec()
    samples = [codec.decode(shards.read(index)) for index in range(len(shards))]
    return samples, np.array([sample["label"] for sample in samples])


def digits_part(folder: Path, *, quick: bool) -> Part:
    """Pretrains, measures, and draws.

    Args:
        folder: gets the shards and the run.
        quick: a few steps only.
    """
    shards = write_digits(folder / "shards")
    began = time.perf_counter()
    run = zoo.pretrain(MODEL, shards["train"], folder / "run", QUICK if quick else ())
    seconds = time.perf_counter() - began
    encoder = run.load()
    check_reload(run.folder / EXPORT, encoder, files_of(folder, shards["test"]))
    random = untrained(run).eval()
    train, test = read_digits(shards["train"]), read_digits(shards["test"])
    rows = (
        ScoreRow("raw pixels", _scores(pixels(train), pixels(test), train[1], test[1])),
        ScoreRow("same encoder, random weights", _embedded(random, train, test)),
        ScoreRow("zoo: MAE pretrained", _embedded(encoder, train, test), ours=True),
    )
    metrics = run.metrics
    loss = Curve("loss", [row["step"] for row in metrics], [row["loss"] for row in metrics])
    return Part(
        title="Vision: masked autoencoder on handwritten digits",
        lead=(
            f"{len(train[0]):,} scans to learn from, {len(test[0]):,} held out; labels are used by "
            f"the probes only. {run.recipe.objective['mask_ratio']:.0%} of the patches are hidden."
        ),
        measures=("kNN, k = 20", "linear probe", f"linear, {FEW} labels a class"),
        rows=rows,
        protocol=(
            "Accuracy on held-out scans. kNN: cosine, votes weighted by exp(similarity / 0.07). "
            "Linear: logistic regression on standardised features, strength chosen on a fifth of "
            "the training set."
        ),
        figures=(
            chart([loss], x="step", y="loss", caption="Reconstruction loss of the hidden patches."),
            _panels(*restore_objective(run), test),
        ),
        seconds=seconds,
        steps=int(metrics[-1]["step"]),
        verdict=_verdict(rows),
    )


def _verdict(rows: tuple[ScoreRow, ...]) -> str:
    pixels, random, ours = (row.scores for row in rows)
    gains = ", ".join(f"{(a - b) * 100:+.1f}" for a, b in zip(ours, random, strict=True))
    wins = sum(a >= b for a, b in zip(ours, pixels, strict=True))
    return (
        f"Pretraining against random weights: {gains} points. "
        f"Raw pixels are beaten in {wins} of {len(ours)} measures."
    )


def _samples(
    images: np.ndarray, labels: np.ndarray, chosen: np.ndarray, caption: Caption | None
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    codec = VisionCodec()
    for index in chosen:
        image = (images[index] * GREY_SCALE).astype(np.uint8)
        sample: Sample = {"image": image, "label": int(labels[index])}
        if caption is not None:
            sample["text"] = caption(int(labels[index]), np.random.default_rng(index))
        yield f"{index:04d}", codec.encode(sample)


def files_of(folder: Path, test: Path) -> list[Path]:
    """A few held-out scans as the files that a user would have."""
    shards, files = ShardSet(test), []
    for index in range(SHOWN):
        files.append(folder / "scans" / f"{shards.key(index)}.png")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_bytes(shards.read(index)["png"])
    return files


def pixels(data: Data) -> np.ndarray:
    """(N, 64) float32."""
    return np.stack([np.asarray(sample["image"]).ravel() for sample in data[0]]).astype(np.float32)


def _embedded(encoder: zoo.Encoder, train: Data, test: Data) -> tuple[float, ...]:
    fit, held = (encoder.embed(samples, progress=False) for samples, _ in (train, test))
    return _scores(fit, held, train[1], test[1])


def _scores(
    train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray
) -> tuple[float, ...]:
    few = np.concatenate([np.flatnonzero(train_labels == c)[:FEW] for c in range(10)])
    return (
        knn_probe(train, train_labels, test, test_labels).accuracy,
        linear_probe(train, train_labels, test, test_labels).accuracy,
        linear_probe(train[few], train_labels[few], test, test_labels).accuracy,
    )


@torch.inference_mode()
def _panels(encoder: zoo.Encoder, objective: Objective, test: Data) -> str:
    assert isinstance(objective, MAE)
    batch = encoder.preprocess.collate([encoder.preprocess(one) for one in test[0][:SHOWN]])
    generator = torch.Generator().manual_seed(0)
    batch["noise"] = torch.rand(SHOWN, objective.num_tokens, generator=generator)
    rows = [image for _, image in objective.pictures(encoder, batch)]
    return picture(
        torch.cat(rows).numpy(),
        scale=8,
        alt="Held-out digits in three rows: original, masked, reconstructed",
        caption="Held-out scans: as they are; what the encoder sees; hidden patches filled in.",
    )
