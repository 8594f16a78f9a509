"""What a paper says, what would show it here, and where the script is that tries."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click

from zoo.errors import UnknownNameError, UsageError

__all__ = ["NAMES", "Claim", "Comparison", "Trials", "each_seed", "find"]

NAMES = (
    "masking_rate",
    "biphasic",
    "packing",
    "voco",
    "mae_mask_ratio",
    "medical_mae",
    "self_distillation",
    "normalisation",
    "nearest_mean",
    "bird_prototypes",
    "tabular_pretraining",
    "infinite_lr",
    "curriculum",
    "caption_mixing",
    "any_subset",
)
Values = dict[str, list[float]]  # of each way, one a seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two ways under the same seeds.

    Attributes:
        ours: the one that the paper prefers.
        base: the one that it is compared with.
        better: which values are.
        least: the gain that the claim needs; below 0, how much worse still counts as no worse.
    """

    ours: str
    base: str
    better: Literal["higher", "lower"] = "higher"
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Trials:
    """What was measured.

    Attributes:
        values: of each way, one a seed, paired.
        facts: further ones to keep.
    """

    values: Values
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A paper's statement and the miniature that tests it.

    Attributes:
        name: of the module, and of the file of results.
        paper: its arXiv id.
        says: the statement.
        modality: that it is tried on.
        data: what it is tried on.
        measure: what each number is.
        comparisons: all have to come out as the paper has it.
        seeds: how many, unless said otherwise.
        budget: seconds of the processor that these take.
        trials: runs so many seeds; the folder is empty at first and goes away afterwards.
    """

    name: str
    paper: str
    says: str
    modality: str
    data: str
    measure: str
    comparisons: tuple[Comparison, ...]
    budget: int
    trials: Callable[[int, Path], Trials]
    seeds: int = 5


def find(name: str) -> Claim:
    """The claim of that name.

    Raises:
        UnknownNameError: there is none.
        UsageError: a package is missing.
    """
    if name not in NAMES:
        raise UnknownNameError("claim", name, NAMES, "zoo bench claims --show lists all")
    try:
        claim: Claim = importlib.import_module(f"zoo.benchmarks.claims.{name}").CLAIM
    except ModuleNotFoundError as error:
        raise UsageError(f"claim {name} needs the package {error.name}: install it") from None
    return claim


def each_seed(
    seeds: int, measure: Callable[[int], Mapping[str, float]], facts: Mapping[str, object]
) -> Trials:
    """Trials that have nothing in common: `measure` says every way's value for a seed."""
    values: Values = {}
    for seed in range(seeds):
        found = measure(seed)
        for way, value in found.items():
            values.setdefault(way, []).append(float(value))
        shown = ", ".join(f"{way} {value:.4f}" for way, value in found.items())
        click.echo(f"seed {seed}: {shown}")
    return Trials(values, facts)
