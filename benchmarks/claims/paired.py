"""Two ways under the same seeds: their difference, with an interval that says what it is worth."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click
import numpy as np
import torch
from zoo.benchmarks.speed.timing import RESULTS

import zoo
from zoo.cli.text import columns

__all__ = ["Claim", "interval", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a paper says, and what is measured here.

    Attributes:
        name: of the file of results.
        says: the paper's statement, with its arXiv id.
        measure: what each number is.
        ways: the one that should win, and the one it is compared with.
    """

    name: str
    says: str
    measure: str
    ways: tuple[str, str]


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % t interval of the mean of paired differences; NaN for fewer than two."""
    from scipy.special import stdtrit

    count, mean = len(differences), float(np.mean(differences))
    if count < 2:
        return float("nan"), float("nan")
    half = float(stdtrit(count - 1, 0.975) * np.std(differences, ddof=1) / count**0.5)
    return mean - half, mean + half


def report(
    claim: Claim,
    values: Mapping[str, Sequence[float]],
    facts: Mapping[str, object],
    *,
    keep: bool = True,
) -> None:
    """Prints a table and the paired difference; keeps both as JSON beside the speed's figures.

    Args:
        claim: whose ways are the names of `values`.
        values: of each way, one a seed, paired.
        facts: further ones to keep.
        keep: whether to write the file.
    """
    ours, base = (np.array(values[way]) for way in claim.ways)
    differences = ours - base
    low, high = interval(differences.tolist())
    rows = [
        (way, f"{np.mean(v):.4f}", "  ".join(f"{x:.4f}" for x in v)) for way, v in values.items()
    ]
    click.echo(f"{claim.says}\n{columns(('way', 'mean', claim.measure), rows)}")
    click.echo(f"difference {differences.mean():+.4f} ({low:+.4f} to {high:+.4f}), paired by seed")
    if not keep:
        return
    found = {
        "zoo": zoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "claim": claim.says,
        "measure": claim.measure,
        "values": {way: [round(float(x), 5) for x in v] for way, v in values.items()},
        "difference": round(float(differences.mean()), 5),
        "interval_95": [round(low, 5), round(high, 5)],
        **facts,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"claim_{claim.name}.json").write_text(json.dumps(found, indent=1) + "\n")
