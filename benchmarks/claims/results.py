"""What claims came out as: a JSON file each, a table, and one picture of them all."""

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from zoo.benchmarks.claims.claim import NAMES, Claim, Trials
from zoo.benchmarks.claims.paired import Gain, gain, overall

import zoo
from zoo.files import write_atomic
from zoo.report.forest import Effect
from zoo.text import columns

__all__ = ["effects", "keep", "read_all", "render", "summarise"]

Result = Mapping[str, Any]


def summarise(claim: Claim, trials: Trials, *, seconds: float) -> dict[str, object]:
    """Everything that is known about a claim now: plain types, numbers rounded.

    Args:
        claim: what was tried.
        trials: what was measured.
        seconds: of the processor that it took.
    """
    gains = [gain(one, trials.values) for one in claim.comparisons]
    compared = [
        asdict(one) | _rounded(found) for one, found in zip(claim.comparisons, gains, strict=True)
    ]
    return {
        "claim": claim.name,
        "paper": claim.paper,
        "says": claim.says,
        "modality": claim.modality,
        "data": claim.data,
        "measure": claim.measure,
        "verdict": overall(found.verdict for found in gains),
        "comparisons": compared,
        "values": {way: [round(x, 5) for x in v] for way, v in trials.values.items()},
        **trials.facts,
        "budget_seconds": claim.budget,
        "cpu_seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "zoo": zoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _rounded(found: Gain) -> dict[str, object]:
    return {
        "gain": round(found.mean, 5),
        "interval_95": [round(end, 5) for end in found.interval_95],
        "bootstrap_95": [round(end, 5) for end in found.bootstrap_95],
        "verdict": found.verdict,
    }


def keep(result: Result, folder: Path) -> Path:
    """Writes the file of a claim; an older one is replaced.

    Raises:
        StorageError: it cannot be written.
    """
    path = folder / f"claim_{result['claim']}.json"
    write_atomic(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def read_all(folder: Path) -> list[Result]:
    """What was kept, in the order of the list of claims."""
    paths = [folder / f"claim_{name}.json" for name in NAMES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def render(results: Sequence[Result]) -> str:
    """One line a comparison: a terminal's table."""
    head = ("claim", "arXiv", "verdict", "gain", "95 %", "seeds", "compared")
    return columns(head, [row for result in results for row in _rows(result)])


def _rows(result: Result) -> Iterator[tuple[str, ...]]:
    seeds = str(len(next(iter(result["values"].values()))))
    for one in result["comparisons"]:
        yield (
            str(result["claim"]),
            str(result["paper"]),
            str(one["verdict"]),
            f"{one['gain']:+.4g}",
            _ends(one),
            seeds,
            f"{one['ours']} against {one['base']}, {result['measure']}",
        )


def _ends(one: Mapping[str, Any]) -> str:
    low, high = one["interval_95"]
    return "unknown" if math.isnan(low) else f"{low:+.4g} to {high:+.4g}"


def effects(results: Sequence[Result]) -> list[Effect]:
    """What the picture shows; a single seed has no interval and is left out."""
    return [
        Effect(
            name=f"{result['claim']}: {one['ours']} against {one['base']}",
            mean=one["gain"],
            low=one["interval_95"][0],
            high=one["interval_95"][1],
            least=one["least"],
            verdict=one["verdict"],
        )
        for result in results
        for one in result["comparisons"]
        if not math.isnan(one["interval_95"][0])
    ]
