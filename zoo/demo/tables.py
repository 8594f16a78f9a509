"""Tables: rows of a table that pretraining never saw, told from a few labelled ones.

A UniTabE (arXiv 2307.09249) learns from unlabelled rows of other tables; what counts is whether
that helps on real tables that it meets for the first time.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from sklearn.linear_model import LogisticRegression

import zoo
from zoo.demo.birds import SEEDS, paired_interval
from zoo.demo.part import Part, ScoreRow, check_reload
from zoo.files import write_atomic
from zoo.modalities.tabular.rows import RowEncoder
from zoo.modalities.tabular.table import Table
from zoo.pretraining import untrained
from zoo.probes.shots import choose
from zoo.report.chart import Curve, chart
from zoo.runs import EXPORT, Run
from zoo.tabular.raw import RowFeatures, beside
from zoo.tabular.shards import write_tables
from zoo.tabular.sources import generated, labelled, real

__all__ = ["tables_part"]

MODEL = "unitabe-small"
SEEN = ("iris", "diabetes", "digits")
HELD_OUT = ("breast_cancer", "wine")
STEPS, QUICK_STEPS = 200, 3
SHOTS = (2, 5, 10)
SHOWN = 8  # rows of a held-out table in the file that is loaded back
RAW, RANDOM, OURS = "columns", "random weights", "zoo: pretrained elsewhere"
BOTH, BOTH_RANDOM = "zoo: columns + pretrained", "columns + random weights"

Floats = NDArray[np.float64]
Trials = dict[str, list[tuple[float, ...]]]  # scores of each seed, by method


def tables_part(folder: Path, *, quick: bool) -> Part:
    """Pretrains, measures, and draws.

    Args:
        folder: gets the shards and the runs.
        quick: a few steps only.
    """
    sources = real(SEEN) | generated()
    shards = write_tables(folder / "shards", sources)
    steps = QUICK_STEPS if quick else STEPS
    began = time.perf_counter()
    runs = _pretrained(folder, shards, steps)
    seconds = time.perf_counter() - began
    held = {name: labelled(name) for name in HELD_OUT}
    check_reload(runs[0].folder / EXPORT, runs[0].load(), [_file(folder, held["wine"][0])])
    trials = _trials(runs, held)
    rows = sum(table.rows for table in sources.values())
    return Part(
        title="Tables: UniTabE on tables that it never saw",
        lead=(
            f"{rows:,} unlabelled rows of {len(SEEN)} real tables of scikit-learn "
            f"({', '.join(SEEN)}) and of {len(sources) - len(SEEN)} generated ones to learn from, "
            f"by {len(runs)} encoders. Held out: {' and '.join(HELD_OUT)}, their columns too."
        ),
        measures=tuple(f"{name}, {shots} a class" for name in HELD_OUT for shots in SHOTS),
        rows=tuple(
            ScoreRow(name, tuple(np.mean(scores, axis=0).tolist()), ours=name in (OURS, BOTH))
            for name, scores in trials.items()
        ),
        protocol=(
            f"Accuracy on the rows that are not labelled, mean over {len(runs)} seeds, each with "
            f"weights and a draw of {', '.join(map(str, SHOTS))} labelled rows a class of its own. "
            "Logistic regression, C = 1, on frozen features; columns are standardised with all "
            "rows of the table, whose labels are not looked at."
        ),
        figures=(_curve(runs),),
        seconds=seconds,
        steps=steps * len(runs),
        verdict=_verdict(trials),
    )


def _pretrained(folder: Path, shards: Path, steps: int) -> list[Run]:
    """A run a seed."""
    options = {"train.steps": steps, "train.warmup": steps // 10, "train.save_every": steps}
    console = Console(stderr=True)
    return [
        zoo.pretrain(
            MODEL, shards, folder / f"run-{seed}", options, seed=seed, device="cpu", progress=False
        )
        for seed in track(range(SEEDS), description="pretraining", console=console, transient=True)
    ]


def _file(folder: Path, table: Table) -> Path:
    """A few held-out rows as the file that a user would have."""
    part = table.take(np.arange(SHOWN))
    lines = [part.names, *zip(*(cells.values() for cells in part.cells), strict=True)]
    path = folder / "rows.csv"
    write_atomic(path, "".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


def _trials(runs: Sequence[Run], held: Mapping[str, tuple[Table, Floats]]) -> Trials:
    trials: Trials = {name: [] for name in (RAW, RANDOM, OURS, BOTH_RANDOM, BOTH)}
    for seed, run in enumerate(runs):
        trained = run.load()
        random = untrained(run).eval()
        random.preprocess.load_assets(trained.preprocess.assets())
        scores: dict[str, list[float]] = {name: [] for name in trials}
        for table, targets in held.values():
            features = _features(table, random, trained)
            labels = targets.astype(np.int64)
            for shots in SHOTS:
                chosen = choose(labels, shots, seed=seed)
                for name, z in features.items():
                    scores[name].append(_accuracy(z, labels, chosen))
        for name, several in scores.items():
            trials[name].append(tuple(several))
    return trials


def _features(table: Table, random: zoo.Encoder, trained: zoo.Encoder) -> dict[str, Floats]:
    """What the linear model sees of every row."""
    found: dict[str, Floats] = {}
    for encoder, alone, both in ((random, RANDOM, BOTH_RANDOM), (trained, OURS, BOTH)):
        assert isinstance(encoder, RowEncoder)
        raw, z = RowFeatures(encoder, table).parts(table)
        found |= {RAW: raw, alone: z, both: beside(raw, z)}
    return found


def _accuracy(z: Floats, labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> float:
    """Fitted on the chosen rows, measured on the others."""
    others = np.setdiff1d(np.arange(len(z)), chosen)
    model = LogisticRegression(max_iter=2000).fit(z[chosen], labels[chosen])
    return float(model.score(z[others], labels[others]))


def _curve(runs: Sequence[Run]) -> str:
    metrics = runs[0].metrics
    loss = Curve("loss", [row["step"] for row in metrics], [row["loss"] for row in metrics])
    return chart(
        [loss],
        x="step",
        y="loss",
        caption="How far hidden cells, and cells told from the pooled vector, are missed.",
    )


def _verdict(trials: Trials) -> str:
    told = []
    for ours, control in ((OURS, RANDOM), (OURS, RAW), (BOTH, RAW)):
        pairs = zip(np.array(trials[ours]).T, np.array(trials[control]).T, strict=True)
        gains = np.array([_points(*paired_interval(*pair)) for pair in pairs])
        of_table = zip(HELD_OUT, np.split(gains, len(HELD_OUT)), strict=True)
        said = (f"{name} {', '.join(several)}" for name, several in of_table)
        told.append(f"{ours.removeprefix('zoo: ')} against {control}: {'; '.join(said)}")
    return (
        f"Points at {', '.join(map(str, SHOTS))} labels a class, with the 95 % intervals of the "
        f"paired differences. {'. '.join(told)}."
    )


def _points(mean: float, low: float, high: float) -> str:
    return f"{mean * 100:+.1f} ({low * 100:+.1f} to {high * 100:+.1f})"
