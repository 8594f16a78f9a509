"""A golden fixture: a JSON sidecar and its arrays."""

import gzip
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

PARTS = ("audio", "code", "data", "tabular", "training", "vision", "volume")
OURS = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True)
class Fixture:
    part: str
    path: Path

    @property
    def name(self):
        return self.path.name.removesuffix(".gz").removesuffix(".json")

    @cached_property
    def sidecar(self):
        opener = gzip.open if self.path.suffix == ".gz" else open
        with opener(self.path, "rt") as file:
            return json.load(file)

    @property
    def kind(self):
        return self.sidecar.get("kind")

    @property
    def config(self):
        return self.sidecar["config"]

    @cached_property
    def tensors(self):
        name = self.sidecar.get("file", f"{self.name}.safetensors")
        return load_file(self.path.parent / name)

    def group(self, prefix):
        """Tensors below a prefix, without it."""
        start = prefix + "."
        return {
            name.removeprefix(start): value
            for name, value in self.tensors.items()
            if name.startswith(start)
        }

    def close(self, got, want, what):
        """Holds `got` against `want` with the sidecar's tolerance for `what`."""
        tolerance = self.sidecar["tolerance"][what]
        want = self.tensors[want] if isinstance(want, str) else want
        got = torch.as_tensor(np.asarray(got) if isinstance(got, list) else got)
        torch.testing.assert_close(got.detach(), want, **tolerance)


def discover():
    """Every sidecar under $ZOO_GOLDEN, or under tests/golden when it is not set."""
    root = Path(os.environ.get("ZOO_GOLDEN") or OURS)
    for part in PARTS:
        folder = root / part
        for path in sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")]):
            if path.suffix == ".json" or not path.with_suffix("").exists():
                yield Fixture(part, path)
