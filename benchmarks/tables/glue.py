"""GLUE (arXiv 1804.07461), development sets: fine-tuning, and linear probes of frozen features.

    python -m zoo.benchmarks.tables.glue mosaic-bert-base --weights W --data glue_data

It has been run on made-up sentences in the data set's file formats only, never on GLUE itself. DATA
holds the folders of the official download. Learning rates, batches and epochs are MosaicBERT's
(arXiv 2312.17482). DEVIATIONS from it: the two sentences of a pair are separated by a line break
instead of a special token; STS-B, a regression, is left out, so that averages do not compare; RTE
and MRPC start from the model itself, not from one fine-tuned on MNLI. WNLI is left out there too.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np
from zoo.benchmarks.tables.options import model_options
from zoo.modalities.code.codec import CodeCodec
from zoo.modalities.contracts import Encoder

import zoo
from zoo.data.building.build import write_shards
from zoo.data.shard.write import MANIFEST
from zoo.data.shards import ShardSet
from zoo.errors import DataError
from zoo.files import cache_folder, sha256_of
from zoo.probes.score import Labels, Score
from zoo.text import columns

__all__ = ["PUBLISHED", "TASKS", "Task", "command", "examples", "measure", "shards_of", "value"]

Kind = Literal["linear", "finetune"]


@dataclass(frozen=True, slots=True)
class Task:
    """A data set of GLUE.

    Columns are names of the header, or numbers from 0 where there is none (CoLA).
    """

    texts: tuple[str, ...]
    label: str
    classes: tuple[str, ...]
    metric: Literal["accuracy", "accuracy and F1", "Matthews"]
    lr: float
    batch_size: int
    epochs: int
    seeds: int
    dev: str = "dev.tsv"
    weight_decay: float = 0.1  # of torch's AdamW: the paper's, over its learning rate


_BINARY, _NLI = ("0", "1"), ("entailment", "not_entailment")
_SENTENCES, _QUESTIONS = ("sentence1", "sentence2"), ("question1", "question2")
_MNLI = ("contradiction", "entailment", "neutral")
TASKS = {
    "CoLA": Task(("3",), "1", _BINARY, "Matthews", 5e-5, 32, 10, 4),
    "SST-2": Task(("sentence",), "label", _BINARY, "accuracy", 3e-5, 16, 3, 3),
    "MRPC": Task(
        ("#1 String", "#2 String"),
        *("Quality", _BINARY, "accuracy and F1", 8e-5, 32, 10, 5),
    ),
    "QQP": Task(_QUESTIONS, "is_duplicate", _BINARY, "accuracy and F1", 3e-5, 16, 5, 1),
    "MNLI": Task(
        *(_SENTENCES, "gold_label", _MNLI, "accuracy", 5e-5, 48, 3, 1),
        dev="dev_matched.tsv",
    ),
    "QNLI": Task(("question", "sentence"), "label", _NLI, "accuracy", 1e-5, 16, 10, 1),
    "RTE": Task(_SENTENCES, "label", _NLI, "accuracy", 1e-5, 16, 3, 5, weight_decay=1.0),
}
# Averages over all eight tasks after fine-tuning, STS-B included; papers and model cards of mGTE
# (mosaic-bert) and ModernBERT (arXiv 2412.13663, table 1).
PUBLISHED = {
    "mosaic-bert-base": 85.4,
    "mosaic-bert-large": 86.1,
    "modernbert-base": 88.4,
    "modernbert-large": 90.4,
}


def examples(path: Path, task: Task) -> Iterator[tuple[str, int]]:
    """The texts of a file, the sentences of a pair on a line each, with their classes.

    Raises:
        DataError: a row has too few columns, or a class that is none; names it.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            yield from _examples(rows, path, task)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot read it ({error})") from None


def _examples(rows: Iterator[list[str]], path: Path, task: Task) -> Iterator[tuple[str, int]]:
    wanted = (*task.texts, task.label)
    if task.label.isdecimal():
        places = [int(name) for name in wanted]
    else:
        head = [name.lstrip("\ufeff") for name in next(rows, [])]
        if missing := [name for name in wanted if name not in head]:
            raise DataError(f"{path}: no column {missing[0]!r} in its first line")
        places = [head.index(name) for name in wanted]
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(places):
            raise DataError(f"{path}, row {number}: only {len(row)} columns")
        *texts, label = (row[place] for place in places)
        if label not in task.classes:
            raise DataError(f"{path}, row {number}: {label!r} is none of {', '.join(task.classes)}")
        yield "\n".join(texts), task.classes.index(label)


def shards_of(path: Path, task: Task) -> Path:
    """Labelled shards of a file, made once and kept in zoo's cache ($ZOO_CACHE)."""
    folder = cache_folder() / "glue" / sha256_of(path)[:16]
    if not (folder / MANIFEST).exists():
        codec = CodeCodec()
        write_shards(
            (
                (f"{number:07d}", codec.encode({"text": text, "label": label}))
                for number, (text, label) in enumerate(examples(path, task))
            ),
            folder,
        )
    return folder


def measure(encoder: Encoder, folder: Path, task: Task, kind: Kind) -> Score:
    """One task: fitted on `train.tsv`, measured on the development set."""
    train, dev = (shards_of(folder / name, task) for name in ("train.tsv", task.dev))
    if kind == "linear":
        return zoo.probe(encoder, train, dev, kind="linear")
    options = {
        **{"lr": task.lr, "batch_size": task.batch_size, "epochs": task.epochs},
        **{"weight_decay": task.weight_decay, "warmup": 0.06},
        **{"head": "linear", "layer_decay": 1.0},
    }
    return zoo.probe(encoder, train, dev, kind="finetune", seeds=task.seeds, options=options)


def value(score: Score, dev: Path, task: Task) -> float:
    """The task's metric in per cent: the mean over seeds."""
    from sklearn.metrics import f1_score, matthews_corrcoef

    data, codec = ShardSet(dev), CodeCodec()
    decoded = (codec.decode(data.read(i))["label"] for i in range(len(data)))
    truth: Labels = np.array([int(str(label)) for label in decoded])

    def of(run: Score) -> float:
        if task.metric == "accuracy":
            return run.accuracy
        if task.metric == "Matthews":
            return float(matthews_corrcoef(truth, run.predictions))
        return (run.accuracy + float(f1_score(truth, run.predictions))) / 2

    return 100 * float(np.mean([of(run) for run in score.runs or (score,)]))


@click.command()
@model_options
@click.option("--data", type=click.Path(path_type=Path), required=True, help="The GLUE folder.")
@click.option("--task", type=click.Choice([*TASKS]), default=[*TASKS], multiple=True)
@click.option("--kind", type=click.Choice(["linear", "finetune"]), default="finetune")
def command(
    model: str, weights: Path | None, data: Path, task: tuple[str, ...], kind: Kind
) -> None:
    """MODEL on the development sets of GLUE."""
    encoder = zoo.load(model, weights=weights) if weights else zoo.load(model)
    cells, found = [], []
    for name in task:
        one = TASKS[name]
        score = measure(encoder, data / name, one, kind)
        found.append(value(score, shards_of(data / name / one.dev, one), one))
        cells.append((name, one.metric, f"{found[-1]:.1f}", str(len(score.runs) or 1)))
    click.echo(columns(("task", "metric", "value", "seeds"), cells))
    click.echo(f"mean of {len(found)} tasks: {np.mean(found):.1f}")
    if model in PUBLISHED:
        click.echo(f"published, fine-tuned, eight tasks with STS-B: {PUBLISHED[model]:g}")


if __name__ == "__main__":
    command()
