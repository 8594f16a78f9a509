"""What tables of image classification share: lines, measured beside what was published."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from zoo.benchmarks.tables.models import load
from zoo.modalities.contracts import Encoder
from zoo.registry.build import encoder_spec
from zoo.registry.catalogue import is_folder

import zoo
from zoo.errors import UsageError
from zoo.evaluation import Kind
from zoo.files import cache_folder, write_atomic
from zoo.probes.score import Score
from zoo.text import columns

__all__ = ["Line", "Table", "place_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a table; `encoder` are arguments that differ from the card's, where it has them."""

    name: str
    kind: Kind
    options: Mapping[str, object] = field(default_factory=dict)
    encoder: Mapping[str, object] = field(default_factory=dict)


def place_of(source: Path, name: str) -> Path:
    """A folder of zoo's cache for what is made of a data set that lies in `source`."""
    digest = hashlib.sha256(str(source.resolve()).encode()).hexdigest()
    return cache_folder() / name / digest[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of one data set."""

    train: Path  # shards
    test: Path
    lines: Sequence[Line]
    metric: Literal["accuracy", "auroc"]
    expected: Mapping[str, float]  # line -> what was published, in per cent
    changes: Mapping[str, object]  # of the recipes of all lines
    notes: Sequence[str] = ()

    def run(
        self, model: str, weights: Path | None, names: Sequence[str], seeds: int, out: Path | None
    ) -> None:
        """Measures line by line, and prints.

        Args:
            model: a name of the catalogue, or a run or export folder.
            weights: a file, for a name.
            names: only lines that begin with one of these.
            seeds: of heads and of the order.
            out: a JSON file for all numbers.

        Raises:
            UsageError: there is no such line, or the encoder is none of images.
        """
        chosen = [one for one in self.lines if not names or one.name.startswith(tuple(names))]
        if not chosen:
            raise UsageError(f"{names}: the lines are {', '.join(one.name for one in self.lines)}")
        rows, kept = [], []
        for line in chosen:
            encoder = _load(model, weights, line)
            options = {**line.options, **self.changes}
            score = zoo.probe(
                encoder, self.train, self.test, kind=line.kind, seeds=seeds, options=options
            )
            rows.append(self._cells(line, score))
            kept.append(self._facts(line, score))
            if out is not None:  # hours lie between two lines
                write_atomic(out, json.dumps({"model": model, "lines": kept}, indent=1))
        click.echo(columns(("line", self.metric, "interval", "published"), rows))
        for note in self.notes:
            click.echo(note)

    def _cells(self, line: Line, score: Score) -> list[str]:
        low, high = score.interval(self.metric)
        expected = self.expected.get(line.name)
        return [
            *(line.name, f"{getattr(score, self.metric):.2%}"),
            f"{low:.2%} to {high:.2%}" if score.runs else "-",
            "-" if expected is None else f"{expected:g}%",
        ]

    def _facts(self, line: Line, score: Score) -> dict[str, object]:
        runs = score.runs or (score,)
        found = [getattr(one, self.metric) for one in runs]
        return {
            "line": line.name,
            "protocol": score.protocol,
            self.metric: [None if np.isnan(value) else value for value in found],
            "published": self.expected.get(line.name),
        }


def _load(model: str, weights: Path | None, line: Line) -> Encoder:
    """The encoder as a line wants it."""
    known = {} if is_folder(model) else encoder_spec(model, {}).encoder
    changes: dict[str, Any] = {k: v for k, v in line.encoder.items() if k in known}
    encoder = load(model, weights, **changes)
    if encoder.modality != "vision":
        raise UsageError(f"{model}: this table needs an encoder of images")
    return encoder
