"""What tables of segmentation share: cases -> shards, the lines, measured beside published."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from zoo.benchmarks.tables import models
from zoo.modalities.contracts import Encoder
from zoo.modalities.volume.codec import VolumeCodec
from zoo.modalities.volume.preprocess import VolumePreprocess, VolumePreprocessConfig
from zoo.registry.schema import read

import zoo
from zoo.data.shard.write import MANIFEST
from zoo.errors import DataError, UsageError
from zoo.files import write_atomic
from zoo.probes.heads import seeded
from zoo.probes.score import bootstrap
from zoo.probes.segmentation import DiceScore, SegmentationRecipe, probe_segmentation
from zoo.probes.volumes import Structures
from zoo.text import columns

__all__ = ["LINES", "Case", "Table", "constants", "load", "write_cases"]

LINES = ("fine-tuned", "frozen encoder", "from scratch")


@dataclass(frozen=True, slots=True)
class Case:
    """A patient: files by what they are called in a shard (`ct.nii.gz`, `seg.nii.gz`)."""

    key: str
    files: Mapping[str, Path]


def write_cases(cases: Sequence[Case], folder: Path, spacing: tuple[float, float, float]) -> Path:
    """Shards of cases in RAS, resampled to `spacing` mm, below `folder`; once for the same files.

    Raises:
        DataError: a file is missing or cannot be read, or a mask lies on another grid than its
            volume; names the case.
    """
    shards = folder / f"{_digest(cases)}-{'-'.join(f'{edge:g}' for edge in spacing)}"
    if not (shards / MANIFEST).exists():
        zoo.write_shards(_members(cases, VolumeCodec(spacing)), shards)
    return shards


def _digest(cases: Iterable[Case]) -> str:
    """Of the files' paths, sizes and times: another data set never takes the place of this one."""
    digest = hashlib.sha256()
    for case in cases:
        for name, path in case.files.items():
            facts = path.stat() if path.exists() else None
            known = (case.key, name, path.resolve(), facts and (facts.st_size, facts.st_mtime_ns))
            digest.update(repr(known).encode())
    return digest.hexdigest()[:12]


def _members(cases: Iterable[Case], codec: VolumeCodec) -> Iterator[tuple[str, dict[str, bytes]]]:
    for case in cases:
        try:
            yield case.key, codec.store({n: path.read_bytes() for n, path in case.files.items()})
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}", code="IO") from None
        except DataError as error:
            raise DataError(f"{case.key}: {error}", code=error.code) from None


def load(
    model: str, weights: Path | None, preprocess: Mapping[str, object] | None = None
) -> Encoder:
    """An encoder of volumes, as `zoo.benchmarks.tables.models.load` gives it.

    Args:
        model: a name of the catalogue, or a run or export folder.
        weights: a file, for a name.
        preprocess: for a name, constants that differ from the card's.

    Raises:
        UsageError: it is no encoder of volumes.
    """
    encoder = models.load(model, weights, preprocess)
    constants(encoder)
    return encoder


def constants(encoder: Encoder) -> VolumePreprocessConfig:
    """Of the encoder's preprocessing.

    Raises:
        UsageError: it is no encoder of volumes.
    """
    if not isinstance(encoder.preprocess, VolumePreprocess):
        raise UsageError(f"this table needs an encoder of volumes, not one of {encoder.modality}")
    return encoder.preprocess.config


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of one data set."""

    structures: Structures
    train: Path  # shards
    test: Path
    recipe: Mapping[str, object]  # of the segmentation, where it differs from its defaults
    expected: Mapping[str, str]  # line -> what was published
    notes: Sequence[str] = ()

    def run(
        self, model: str, encoder: Encoder, lines: Sequence[str], seeds: int, out: Path | None
    ) -> None:
        """Measures line by line, and prints."""
        chosen = [line for line in LINES if not lines or line.startswith(tuple(lines))]
        if not chosen or seeds < 1:
            raise UsageError(f"{lines}, {seeds} seeds: the lines are {', '.join(LINES)}")
        rows, kept, measured = [], [], []
        for line in chosen:
            scores = [self.measure(line, encoder, seed) for seed in range(seeds)]
            kept.append(self._facts(line, scores))
            rows.append(self._cells(line, scores))
            measured.append(np.mean([[*score.structures.values()] for score in scores], axis=0))
            if out is not None:  # hours lie between two lines
                write_atomic(out, json.dumps({"model": model, "lines": kept}, indent=1))
        click.echo(columns(("line", "mean Dice", "interval", "published"), rows))
        click.echo(columns(("structure", *chosen), self._by_structure(measured)))
        for note in self.notes:
            click.echo(note)

    def measure(self, line: str, encoder: Encoder, seed: int) -> DiceScore:
        """One line, once."""
        options = {**self.recipe, "frozen": line == "frozen encoder"}
        recipe = read(SegmentationRecipe, options, where="recipe of the table")
        if line == "from scratch":
            encoder = _untrained(encoder, seed)
        return probe_segmentation(
            encoder, self.train, self.test, self.structures, recipe=recipe, seed=seed
        )

    def _facts(self, line: str, scores: Sequence[DiceScore]) -> dict[str, object]:
        return {
            "line": line,
            "protocol": scores[0].protocol,
            "mean": [score.mean for score in scores],
            "structures": [_plain(score.structures) for score in scores],
            "volumes": np.isfinite(scores[0].dice).sum(axis=0).tolist(),
            "published": self.expected.get(line, "-"),
        }

    def _cells(self, line: str, scores: Sequence[DiceScore]) -> list[str]:
        low, high = bootstrap([score.mean for score in scores])
        return [
            *(line, f"{np.mean([score.mean for score in scores]):.2%}"),
            f"{low:.2%} to {high:.2%}" if len(scores) > 1 else "-",
            self.expected.get(line, "-"),
        ]

    def _by_structure(self, measured: Sequence[NDArray[np.float64]]) -> list[list[str]]:
        return [
            [name, *("-" if np.isnan(one) else f"{one:.1%}" for one in of_lines)]
            for name, of_lines in zip(self.structures, np.transpose(measured), strict=True)
        ]


def _plain(structures: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON knows numbers."""
    return {name: None if np.isnan(value) else value for name, value in structures.items()}


def _untrained(encoder: Encoder, seed: int) -> Encoder:
    """The same network with random weights."""
    device = next(encoder.parameters()).device
    with seeded(seed, device):
        return type(encoder)(encoder.config, constants(encoder)).to(device)
