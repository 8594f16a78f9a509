"""Bird-MAE's tables on BirdSet: probes on frozen features, few-shot learning, fine-tuning.

    python -m zoo.benchmarks.tables.birdset bird-mae-base --weights model.safetensors --task HSN

It has been run on made-up recordings in BirdSet's file formats only, never on BirdSet itself. The
paper's protocol (arXiv 2504.12880, tables on BirdSet, arXiv 2403.10380) is followed but for this:

- The frozen encoder is in eval mode and features are computed once, so that a probe sees every
  clip without augmentation. Upstream augments, and leaves drop-path on.
- Fine-tuning rolls, scales and mixes clips (labels are merged). Upstream also adds noise, and masks
  times and frequencies.
- Besides the paper's linear probe there are standardised ones, before and behind the encoder's last
  norm: one feature of these encoders is so large that it hides all others.

Huge needs `batch_size=64` for fine-tuning. Numbers are macro means in per cent over the classes
that the test segments have; intervals are 95 % bootstrap intervals over seeds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
from zoo.benchmarks.tables import models
from zoo.benchmarks.tables.birdset_data import BirdSet, download
from zoo.benchmarks.tables.options import source_option, table_options
from zoo.modalities.audio.preprocess import AudioPreprocess
from zoo.modalities.contracts import Encoder
from zoo.registry.catalogue import find, is_folder
from zoo.registry.schema import override

import zoo
from zoo.errors import UsageError
from zoo.evaluation import Kind
from zoo.files import cache_folder, write_atomic
from zoo.probes.score import Score, mean_score
from zoo.text import columns

__all__ = ["LINES", "TASKS", "Line", "measure", "published"]

# classes, recordings and segments, as the data set's page says
TASKS = {
    "HSN": (21, 5_460, 12_000),
    "POW": (48, 14_911, 4_560),
    "PER": (132, 16_802, 15_120),
    "NES": (89, 16_117, 24_480),
    "UHH": (27, 3_626, 36_637),  # 25 of them in the recordings
    "NBP": (51, 24_327, 563),
    "SSW": (81, 28_403, 205_200),
    "SNE": (56, 19_390, 23_756),
}
SHOTS = (1, 5, 10)
_PROBE: dict[str, object] = {"epochs": 30, "batch_size": 128, "lr": 3e-4, "standardize": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of the table."""

    name: str
    kind: Kind
    options: Mapping[str, object] = field(default_factory=dict)
    shots: int | None = None


LINES = (
    Line(name="linear", kind="linear", options=_PROBE),
    Line(name="linear, standardised", kind="linear", options={**_PROBE, "standardize": True}),
    Line(
        name="linear, standardised, behind the norm",
        kind="linear",
        options={**_PROBE, "standardize": True, "pool": "norm"},
    ),
    Line(name="attentive", kind="attentive", options=_PROBE),
    Line(name="prototypical", kind="prototypical", options=_PROBE),
    *(
        Line(name=f"{kind}, {k}-shot", kind=kind, options={"standardize": False}, shots=k)
        for k in SHOTS
        for kind in ("linear", "attentive", "prototypical")
    ),
    Line(name="fine-tuned", kind="finetune"),  # its defaults are the paper's
)

# cmAP that nobody here could check against the paper: when somebody has, they belong into the card.
_SECONDARY: dict[tuple[str, str], dict[str, float]] = {
    ("audiomae-base", "linear"): {"HSN": 8.77},
    ("audiomae-base", "prototypical"): {"HSN": 19.42},
    ("bird-mae-base", "prototypical"): {"HSN": 43.84},
    ("bird-mae-base", "fine-tuned"): {"HSN": 52.06},
    ("bird-mae-large", "linear"): {"HSN": 12.44},
    ("bird-mae-large", "attentive"): {"HSN": 47.81},
    ("bird-mae-large", "prototypical"): {"HSN": 49.97},
    ("bird-mae-large", "fine-tuned"): {
        **{"HSN": 55.28, "POW": 55.26, "PER": 34.6, "NES": 41.5},
        **{"UHH": 30.2, "NBP": 71.7, "SSW": 40.8, "SNE": 33.8},
    },
    ("bird-mae-huge", "prototypical"): {"HSN": 47.52},
    ("bird-mae-huge", "fine-tuned"): {
        **{"HSN": 54.80, "POW": 54.1, "PER": 33.3, "NES": 39.3},
        **{"UHH": 29.8, "NBP": 69.4, "SSW": 41.3, "SNE": 32.2},
    },
}
_FOOTNOTE = "* from secondary sources, not checked against the paper"


def published(model: str, task: str, line: str) -> str:
    """What the card says of a model of the catalogue, else what others say, marked; else a dash.

    In a card: dataset "BirdSet HSN", the line's name as protocol, metric "cmAP", per cent.
    """
    known = models.published(model, f"BirdSet {task}", "cmAP")
    if line in known:
        return f"{known[line]:g}"
    value = _SECONDARY.get((model, line), {}).get(task)
    return "-" if value is None else f"{value:g}*"


def measure(
    line: Line, encoder: Encoder, data: BirdSet, seeds: int, changes: Mapping[str, object]
) -> Score:
    """One line of the table.

    Args:
        line: which.
        encoder: what is measured.
        data: a task.
        seeds: of heads and of the order; few-shot learning draws other events with each.
        changes: options of the recipe that differ from the line's.
    """
    options = {**line.options, **changes}
    test = data.test()
    if line.shots is None:
        return zoo.probe(encoder, data.train(), test, kind=line.kind, seeds=seeds, options=options)
    subsets = [data.shots(line.shots, seed=seed) for seed in range(1, seeds + 1)]
    return mean_score(
        [zoo.probe(encoder, one, test, kind=line.kind, options=options) for one in subsets]
    )


def _load(model: str, weights: Path | None) -> Encoder:
    """The encoder, as fine-tuning wants it: it is in eval mode where it is frozen."""
    encoder = models.load(model, weights, drop_path=0.1)
    if not isinstance(encoder.preprocess, AudioPreprocess):
        raise UsageError(f"{model}: BirdSet needs an encoder of audio clips")
    config = encoder.preprocess.config
    mixing = replace(config.augment, mix=0.9, mix_snr=(2.0, 30.0))  # more than in pretraining
    encoder.preprocess = AudioPreprocess(replace(config, augment=mixing))
    return encoder


def _sizes(data: BirdSet, task: str) -> str:
    """What was found beside what was published."""
    found = (len(data.classes), len(data.rows), len(data.segments))
    names = ("classes", "recordings", "segments")
    parts = [
        f"{have:,} {name} (published: {want:,})"
        for have, name, want in zip(found, names, TASKS[task], strict=True)
    ]
    return f"{task} from {data.source}: {', '.join(parts)}"


def _cells(line: Line, score: Score, expected: str) -> list[str]:
    low, high = score.interval("cmap")
    interval = f"{low:.2%} to {high:.2%}" if len(score.runs) > 1 else "-"
    return [
        *(line.name, f"{score.cmap:.2%}", interval, expected),
        *(f"{score.auroc:.2%}", f"{score.accuracy:.2%}", str(score.skipped)),
    ]


@click.command()
@table_options
@source_option("A copy, instead of the Hub.", required=False)
@click.option("--task", type=click.Choice([*TASKS]), default=["HSN"], multiple=True)
@click.option("--seeds", default=3, show_default=True)
def command(
    model: str,
    changes: tuple[str, ...],
    weights: Path | None,
    task: Sequence[str],
    lines: tuple[str, ...],
    seeds: int,
    source: Path | None,
    out: Path | None,
) -> None:
    """MODEL's table on BirdSet; KEY=VALUE changes the recipe of every line.

    Shards are kept in zoo's cache ($ZOO_CACHE), downloads in that of the Hub.
    """
    chosen = [one for one in LINES if not lines or one.name.startswith(lines)]
    if not chosen:
        raise UsageError(f"{lines}: the lines are {', '.join(one.name for one in LINES)}")
    encoder, options = _load(model, weights), override({}, changes)
    name = model if is_folder(model) else find(model)[0].name
    kept = []
    for one in task:
        folder = source or download(one)
        data = BirdSet(folder, one, cache_folder() / "birdset")
        click.echo(_sizes(data, one))
        cells = []
        for line in chosen:
            score = measure(line, encoder, data, seeds, options)
            expected = published(name, one, line.name)
            cells.append(_cells(line, score, expected))
            kept.append(_facts(one, line, score, expected))
            if out is not None:  # hours lie between two lines
                write_atomic(
                    out,
                    json.dumps({"model": model, "source": str(folder), "lines": kept}, indent=1),
                )
        head = ("line", "cmAP", "interval", "published", "AUROC", "top-1", "classes left out")
        click.echo(columns(head, cells))
        if any(row[3].endswith("*") for row in cells):
            click.echo(_FOOTNOTE)


def _facts(task: str, line: Line, score: Score, expected: str) -> dict[str, object]:
    metrics: dict[str, Callable[[Score], float]] = {
        "cmap": lambda one: one.cmap,
        "auroc": lambda one: one.auroc,
        "top1": lambda one: one.accuracy,
    }
    runs = score.runs or (score,)
    return {
        "task": task,
        "line": line.name,
        "protocol": score.protocol,
        **{name: [get(one) for one in runs] for name, get in metrics.items()},
        "published": expected,
        "skipped_classes": score.skipped,
    }


if __name__ == "__main__":
    command()
