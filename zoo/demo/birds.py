"""Audio: a Bird-MAE (arXiv 2504.12880) on synthesised song, probed with a few labelled clips.

Sixty draws, probes and numbers of shots share one reading of the clips: so the parts of `zoo.probe`
are called here and not that itself.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

import zoo
from zoo.data.building.build import write_shards
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.demo.part import Part, ScoreRow, check_reload
from zoo.demo.song import RATE, SPECIES, clip
from zoo.modalities.audio.codec import AudioCodec
from zoo.modalities.audio.encoder import SpectrogramViT
from zoo.modalities.contracts import Batch
from zoo.objectives.contract import Objective
from zoo.objectives.mae import MAE
from zoo.pretraining import restore_objective, untrained
from zoo.probes.attentive import Attentive
from zoo.probes.frozen import TokenMap, pooled, token_map
from zoo.probes.heads import Head, HeadRecipe, Standardize, predict, train_head
from zoo.probes.prototypical import Prototypical
from zoo.probes.samples import Labelled, label_arrays
from zoo.probes.score import Labels
from zoo.probes.shots import choose
from zoo.probing import knn_probe, linear_probe
from zoo.report.chart import Curve, chart
from zoo.report.page import picture
from zoo.runs import EXPORT

__all__ = ["birds_part", "write_birds"]

MODEL = "birds-mae-tiny"
QUICK = ("train.steps=6", "train.warmup=1", "train.log_every=1", "train.batch_size=8")
CLIPS = {"train": 1500, "labelled": 20 * len(SPECIES), "test": 40 * len(SPECIES)}
QUICK_CLIPS = {"train": 24, "labelled": 2 * len(SPECIES), "test": len(SPECIES)}
SILENT_SHARE = 0.15  # of the unlabelled clips: no bird is near
SHOTS = (1, 5, 10)
SEEDS = 5
STUDENT = 2.776  # 97.5 % quantile of Student's t with SEEDS - 1 degrees of freedom
NEIGHBOURS = 20
HEADS, LR = 4, 4e-3  # of the attentive head, whose protocol the paper does not tell
PER_CLASS = 5  # prototypes; Bird-MAE's 20 cost four times as much
SHOWN = 4  # clips in the picture

Kind = Literal["kNN", "linear", "attentive", "prototypical"]
KINDS: tuple[Kind, ...] = ("kNN", "linear", "attentive", "prototypical")
Trials = dict[tuple[Kind, int], list[float]]  # accuracy of each seed, by probe and shots


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the probes see of N clips; heads on tokens are left out where there are none."""

    labels: Labels  # (N,)
    pooled: Tensor  # (N, D)
    tokens: TokenMap | None = None


def write_birds(folder: Path, *, quick: bool = False) -> dict[str, Path]:
    """Writes the shards of every split; leaves complete ones as they are.

    Args:
        folder: gets `train` (unlabelled), `labelled` and `test`.
        quick: a few clips only.

    Returns:
        The folder of each split.
    """
    folders = {}
    for number, (split, count) in enumerate((QUICK_CLIPS if quick else CLIPS).items()):
        folders[split] = folder / split
        if not (folders[split] / MANIFEST).exists():
            shutil.rmtree(folders[split], ignore_errors=True)
            write_shards(_samples(number, count, labelled=split != "train"), folders[split])
    return folders


def birds_part(folder: Path, *, quick: bool) -> Part:
    """Pretrains, measures, and draws.

    Args:
        folder: gets the shards and the run.
        quick: a few steps and clips only.
    """
    shards = write_birds(folder / "shards", quick=quick)
    began = time.perf_counter()
    run = zoo.pretrain(MODEL, shards["train"], folder / "run", QUICK if quick else ())
    seconds = time.perf_counter() - began
    encoder = run.load()
    check_reload(run.folder / EXPORT, encoder, _files(folder, shards["test"]))
    sides = [_read(encoder, shards[split]) for split in ("labelled", "test")]
    recipe = HeadRecipe(epochs=1) if quick else HeadRecipe()
    spectrum = _probed([_spectrum(encoder, *side) for side in sides], recipe)
    random = untrained(run).eval()
    before = _probed([_features(random, *side) for side in sides], recipe)
    after = _probed([_features(encoder, *side) for side in sides], recipe)
    metrics = run.metrics
    loss = Curve("loss", [row["step"] for row in metrics], [row["loss"] for row in metrics])
    return Part(
        title="Audio: Bird-MAE on synthesised bird song",
        lead=(
            f"No real bird: {len(SPECIES)} invented species, in pairs that share their "
            "frequencies, with wind, noise and birds further away. "
            f"{len(ShardSet(shards['train'])):,} clips of 1.3 s without labels to learn from, "
            f"{run.recipe.objective['mask_ratio']:.0%} of the patches are hidden."
        ),
        measures=tuple(f"{shots} shot{'s' * (shots > 1)}" for shots in SHOTS),
        rows=(
            *_rows("mean spectrum", spectrum),
            *_rows("random weights", before),
            *_rows("zoo: MAE pretrained", after, ours=True),
        ),
        protocol=(
            f"Which species is near: accuracy on {len(sides[1][1]):,} held-out clips, mean over "
            f"{SEEDS} draws of 1, 5 and 10 labelled clips a species. Frozen features, "
            f"standardised. kNN: cosine, at most {NEIGHBOURS} neighbours. Attentive and "
            f"prototypical heads see the tokens; {PER_CLASS} prototypes a species. The intervals "
            "are of the draws: other weights, or other clips, are not in them."
        ),
        figures=(
            chart([loss], x="step", y="loss", caption="Reconstruction loss of the hidden patches."),
            _panels(*restore_objective(run), sides[1][0]),
        ),
        seconds=seconds,
        steps=int(metrics[-1]["step"]),
        verdict=_verdict(before, after),
    )


def _samples(
    split: int, count: int, *, labelled: bool
) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    codec = AudioCodec()
    for index in range(count):
        rng = np.random.default_rng((split, index))
        near = index % len(SPECIES)
        if labelled:
            sound = clip(near, int(rng.integers(3)), rng)
            yield f"{index:05d}", codec.encode({"audio": sound, "rate": RATE, "label": near})
        else:
            heard = None if rng.random() < SILENT_SHARE else near
            sound = clip(heard, int(rng.integers(3)), rng)
            yield f"{index:05d}", codec.encode({"audio": sound, "rate": RATE})


def _files(folder: Path, test: Path) -> list[Path]:
    """A few held-out clips as the files that a user would have."""
    shards, files = ShardSet(test), []
    for index in range(SHOWN):
        files.append(folder / "clips" / f"{shards.key(index)}.wav")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_bytes(shards.read(index)["wav"])
    return files


def _read(encoder: zoo.Encoder, shards: Path) -> tuple[Batch, Labels]:
    """A split as one batch, and its labels."""
    samples = Labelled(encoder, shards)
    [(batch, names)] = samples.batches(range(len(samples)), len(samples))
    return batch, label_arrays(names)[0]


@torch.no_grad()
def _features(encoder: zoo.Encoder, batch: Batch, labels: Labels) -> _Seen:
    return _Seen(
        labels=labels, pooled=pooled(encoder, batch, "encoder"), tokens=token_map(encoder, batch)
    )


def _spectrum(encoder: zoo.Encoder, batch: Batch, labels: Labels) -> _Seen:
    """The log-mel spectrum (N, M) that the encoder's input has on average over time."""
    assert isinstance(encoder, SpectrogramViT)
    features = encoder.preprocess.features(batch["waveform"])  # (N, 1, R, M)
    return _Seen(labels=labels, pooled=features.mean(dim=(1, 2)))


def _probed(sides: Sequence[_Seen], recipe: HeadRecipe) -> Trials:
    """Every probe fitted on draws of the first side and measured on the second."""
    scaling = Standardize(sides[0].pooled)
    train, test = (replace(seen, pooled=scaling(seen.pooled)) for seen in sides)
    chosen = {
        shots: [choose(train.labels, shots, seed=seed) for seed in range(SEEDS)] for shots in SHOTS
    }
    return {
        (kind, shots): [
            _accuracy(kind, _some(train, clips), test, recipe, seed)
            for seed, clips in enumerate(draws)
        ]
        for kind in KINDS
        if train.tokens is not None or kind in ("kNN", "linear")
        for shots, draws in chosen.items()
    }


def _some(seen: _Seen, chosen: NDArray[np.int64]) -> _Seen:
    tokens = seen.tokens and seen.tokens._replace(x=seen.tokens.x[chosen])
    return _Seen(labels=seen.labels[chosen], pooled=seen.pooled[chosen], tokens=tokens)


def _accuracy(kind: Kind, train: _Seen, test: _Seen, recipe: HeadRecipe, seed: int) -> float:
    if kind in ("kNN", "linear"):
        sides = train.pooled.numpy(), train.labels, test.pooled.numpy(), test.labels
        if kind == "kNN":
            return knn_probe(*sides, k=min(NEIGHBOURS, len(train.labels))).accuracy
        return linear_probe(*sides, standardize=False, seed=seed).accuracy
    assert train.tokens is not None
    assert test.tokens is not None
    tokens, grid, prefix = train.tokens.x, train.tokens.grid, train.tokens.prefix
    sizes = tokens.shape[2], len(SPECIES)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "prototypical":
            head: Head = Prototypical(*sizes, grid=grid, prefix=prefix, per_class=PER_CLASS)
        else:
            head, recipe = Attentive(*sizes, heads=HEADS, prefix=prefix), replace(recipe, lr=LR)
    model = train_head(head, tokens, torch.from_numpy(train.labels), recipe, seed=seed)
    return float((predict(model, test.tokens.x).argmax(axis=1) == test.labels).mean())


def _rows(name: str, trials: Trials, *, ours: bool = False) -> list[ScoreRow]:
    kinds = dict.fromkeys(kind for kind, _ in trials)
    return [
        ScoreRow(
            f"{name}, {kind}",
            tuple(float(np.mean(trials[kind, shots])) for shots in SHOTS),
            ours=ours,
        )
        for kind in kinds
    ]


def _verdict(before: Trials, after: Trials) -> str:
    gains = {key: paired_interval(after[key], before[key]) for key in after}
    told = [
        f"{kind} " + ", ".join(_points(*gains[kind, shots]) for shots in SHOTS) for kind in KINDS
    ]
    clear = sum(low > 0 for _, low, _ in gains.values())
    return (
        "Pretraining against random weights, points at 1, 5 and 10 shots with the 95 % interval of "
        f"the paired difference: {'; '.join(told)}. {clear} of {len(gains)} intervals are above 0."
    )


def _points(mean: float, low: float, high: float) -> str:
    return f"{mean * 100:+.1f} ({low * 100:+.1f} to {high * 100:+.1f})"


def paired_interval(a: ArrayLike, b: ArrayLike) -> tuple[float, float, float]:
    """Mean of a - b over SEEDS pairs, and both ends of its 95 % t interval."""
    gains = np.subtract(np.asarray(a, np.float64), np.asarray(b, np.float64))
    mean, half = gains.mean(), STUDENT * gains.std(ddof=1) / np.sqrt(SEEDS)
    return float(mean), float(mean - half), float(mean + half)


@torch.inference_mode()
def _panels(encoder: zoo.Encoder, objective: Objective, clips: Batch) -> str:
    assert isinstance(objective, MAE)
    batch = {"waveform": clips["waveform"][:SHOWN]}
    generator = torch.Generator().manual_seed(0)
    batch["noise"] = torch.rand(SHOWN, objective.num_tokens, generator=generator)
    rows = [image for _, image in objective.pictures(encoder, batch)]
    return picture(
        torch.cat(rows).numpy(),
        scale=2,
        alt="Spectrograms of held-out clips in three rows: original, masked, reconstructed",
        caption=(
            "Spectrograms of held-out clips, time to the right, high notes above: as they are; "
            "what the encoder sees; hidden patches filled in."
        ),
    )
