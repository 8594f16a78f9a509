"""What one part of the demo reports, and the proof that an export is the trained encoder."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from zoo.errors import ZooError
from zoo.modalities.contracts import Encoder

__all__ = ["Part", "ScoreRow", "check_reload"]


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """A method and its scores, shares between 0 and 1; NaN where a measure does not apply."""

    name: str
    scores: tuple[float, ...]
    ours: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the demo."""

    title: str
    lead: str  # what was trained on what
    measures: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    protocol: str
    figures: tuple[str, ...]  # HTML
    seconds: float  # of pretraining
    steps: int
    verdict: str  # one sentence, computed from the rows


def check_reload(export: Path, encoder: Encoder, files: Sequence[Path]) -> None:
    """Embeds files with the export in a fresh process and compares with `encoder`, bit by bit.

    Raises:
        ZooError: the features differ, or the other process failed.
    """
    here = encoder.embed(list(files), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "features.npy"
        words = ["embed", f"{export}/", *map(str, files), "-o", str(output)]
        done = subprocess.run(
            [sys.executable, "-m", "zoo", *words],
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ZooError(f"{export}: loading it in a fresh process failed: {done.stderr.strip()}")
        there = np.load(output)
    if not np.array_equal(here, there):
        worst = np.abs(here - there).max()
        raise ZooError(f"{export}: features differ in a fresh process by up to {worst:.2e}")
