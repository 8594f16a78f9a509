"""Image and text: a tiny CLIP (arXiv 2103.00020) on scikit-learn's digits and captions of them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

import zoo
from zoo.demo.birds import SEEDS, paired_interval
from zoo.demo.digits import files_of, pixels, read_digits, write_digits
from zoo.demo.part import Part, ScoreRow, check_reload
from zoo.modalities.contracts import Sample
from zoo.modalities.towers import TwoTowerEncoder
from zoo.pretraining import untrained
from zoo.probes.zero_shot import recall_at, zero_shot_classifier, zero_shot_predict
from zoo.probing import linear_probe
from zoo.report.chart import Curve, chart
from zoo.report.page import picture
from zoo.runs import EXPORT, Run

__all__ = ["TEMPLATES", "UNSEEN", "captions_part", "chance"]

MODEL = "digits-clip-tiny"
QUICK = ("train.steps=4", "train.warmup=1", "train.log_every=1")
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_PHRASES = [
    " ".join(words)
    for words in product(
        ("a", "the"), ("handwritten", "scanned", "small"), ("digit", "number", "figure"), ("{}",)
    )
]
UNSEEN = tuple(_PHRASES[5::6])  # known words in an order that no caption of the training has
TEMPLATES = tuple(phrase for phrase in _PHRASES if phrase not in UNSEEN)
AMONG = (1, 5)  # scans that a query may find its own among
SHOWN, EDGE = 12, 1  # scans of a row in the picture, and pixels around each
RIGHT, WRONG = (0, 0, 0), (230, 60, 40)

Scores = NDArray[np.float64]  # zero-shot, and one recall for each of AMONG


@dataclass(frozen=True, slots=True)
class _Test:
    """Held-out scans: samples, and the digit (N,) that each shows."""

    samples: list[Sample]
    labels: NDArray[np.int64]


def captions_part(folder: Path, *, quick: bool) -> Part:
    """Pretrains with several seeds, measures, and draws.

    Args:
        folder: gets the shards and the runs.
        quick: a few steps only.
    """
    shards = write_digits(folder / "shards", caption=_caption)
    train, test = read_digits(shards["train"]), _Test(*read_digits(shards["test"]))
    began = time.perf_counter()
    runs = [
        zoo.pretrain(
            MODEL, shards["train"], folder / f"run-{seed}", QUICK if quick else (), seed=seed
        )
        for seed in range(SEEDS)
    ]
    seconds = time.perf_counter() - began
    check_reload(runs[0].folder / EXPORT, runs[0].load(), files_of(folder, shards["test"]))
    after = np.array([_measured(_towers(run.load()), test) for run in runs])
    before = np.array([_measured(_towers(_random(run)), test) for run in runs])
    labelled = linear_probe(
        pixels(train), train[1], pixels(read_digits(shards["test"])), test.labels
    )
    found = (float("nan"),) * len(AMONG)
    counts = np.bincount(test.labels)
    steps = [row["step"] for row in runs[0].metrics]
    return Part(
        title="Image and text: CLIP on handwritten digits and captions",
        lead=(
            f"{len(train[0]):,} scans, each with a generated caption such as "
            f'"{TEMPLATES[0].format(NAMES[7])}", {len(test.samples):,} held out. A caption says '
            f"which digit it is: this is supervision by words. {SEEDS} runs."
        ),
        measures=("zero-shot", *(f"text to image, R@{k}" for k in AMONG)),
        rows=(
            ScoreRow("chance", (1 / len(NAMES), *(chance(counts, k) for k in AMONG))),
            ScoreRow("raw pixels, linear probe with labels", (labelled.accuracy, *found)),
            ScoreRow("same towers, random weights", _mean(before)),
            ScoreRow("zoo: CLIP pretrained", _mean(after), ours=True),
        ),
        protocol=(
            f"Zero-shot: which of {len(NAMES)} digits a held-out scan is, by the mean vector of "
            f"{len(TEMPLATES)} phrases for each. Text to image: {len(UNSEEN)} phrases that no "
            "caption has, for each digit; a query counts where one of the first 1 or 5 scans is "
            f"right. Means over {SEEDS} seeds of weights, order and crops; the split is one."
        ),
        figures=(
            chart(
                [Curve("loss", steps, [row["loss"] for row in runs[0].metrics])],
                x="step",
                y="loss",
                caption="Contrastive loss of the first run.",
            ),
            _retrieved(_towers(runs[0].load()), test),
        ),
        seconds=seconds,
        steps=int(steps[-1]),
        verdict=_verdict(before, after),
    )


def chance(counts: Sequence[int] | NDArray[np.int64], k: int) -> float:
    """How often one of k scans drawn at random is of a digit, mean over digits.

    Args:
        counts: scans of each digit.
        k: how many are drawn.
    """
    everyone = int(sum(counts))
    missed = [comb(everyone - int(own), k) / comb(everyone, k) for own in counts]
    return 1 - float(np.mean(missed))


def _caption(label: int, rng: np.random.Generator) -> str:
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(NAMES[label])


def _towers(encoder: zoo.Encoder) -> TwoTowerEncoder:
    assert isinstance(encoder, TwoTowerEncoder)
    return encoder


def _random(run: Run) -> zoo.Encoder:
    """The towers as the run began, with the tokenizer that it learned."""
    encoder = untrained(run).eval()
    encoder.preprocess.load_assets(run.load().preprocess.assets())
    return encoder


def _measured(encoder: TwoTowerEncoder, test: _Test) -> Scores:
    classifier = zero_shot_classifier(encoder, NAMES, TEMPLATES)
    accuracy = (zero_shot_predict(encoder, test.samples, classifier) == test.labels).mean()
    scans = _vectors(encoder, test)
    phrases = [phrase.format(name) for phrase in UNSEEN for name in NAMES]
    digits = np.tile(np.arange(len(NAMES)), len(UNSEEN))
    wanted = torch.from_numpy(digits[:, None] == test.labels)
    queries = _queries(encoder, phrases)
    return np.array([accuracy, *(recall_at(queries, scans, wanted, k) for k in AMONG)])


def _vectors(encoder: TwoTowerEncoder, test: _Test) -> Tensor:
    return normalize(torch.from_numpy(encoder.embed(test.samples, progress=False)), dim=1)


@torch.inference_mode()
def _queries(encoder: TwoTowerEncoder, phrases: Sequence[str]) -> Tensor:
    return encoder.encode_text(phrases, normalize=True)


def _mean(scores: Scores) -> tuple[float, ...]:
    """Over seeds, (S, M) -> M numbers."""
    return tuple(scores.mean(axis=0).tolist())


def _verdict(before: Scores, after: Scores) -> str:
    mean, low, high = paired_interval(after[:, 0], np.zeros(SEEDS))
    gains = [paired_interval(after[:, i], before[:, i]) for i in range(after.shape[1])]
    told = ", ".join(f"{100 * m:+.1f} ({100 * a:+.1f} to {100 * b:+.1f})" for m, a, b in gains)
    return (
        f"Zero-shot {mean:.1%} (95 % interval over {SEEDS} seeds {low:.1%} to {high:.1%}). "
        f"Against random weights, in the order of the columns: {told} points."
    )


def _retrieved(encoder: TwoTowerEncoder, test: _Test) -> str:
    phrase = UNSEEN[0]
    queries = _queries(encoder, [phrase.format(name) for name in NAMES])
    nearest = (queries @ _vectors(encoder, test).T).topk(SHOWN, dim=1).indices.tolist()
    rows = [
        np.concatenate([*_framed(test, digit, places)], axis=1)
        for digit, places in enumerate(nearest)
    ]
    return picture(
        np.concatenate(rows),
        scale=5,
        alt="Ten rows of held-out digits, the most alike to a phrase about zero, one, ..., nine",
        caption=(
            f'Held-out scans that are most alike to "{phrase.format("zero")}" (first row) to '
            f'"{phrase.format("nine")}", a phrase of no caption. Wrong ones are framed.'
        ),
    )


def _framed(test: _Test, digit: int, places: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    for place in places:
        grey = np.asarray(test.samples[place]["image"])[0]
        tile = np.empty((grey.shape[0] + 2 * EDGE, grey.shape[1] + 2 * EDGE, 3), np.uint8)
        tile[:] = RIGHT if test.labels[place] == digit else WRONG
        tile[EDGE:-EDGE, EDGE:-EDGE] = grey[..., None]
        yield tile
