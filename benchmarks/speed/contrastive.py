"""InfoNCE forward and backward, 512-dimensional pairs: all logits at once against tiles of them.

Peak memory is what the process grows by, features and their gradients included.
"""

import json
import multiprocessing
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from zoo.benchmarks.speed.timing import RESULTS
from zoo.objectives.contrastive_losses import info_nce

DIM, PAIRS = 512, (4_096, 8_192, 32_768)
PLAIN_MOST = 8_192  # pairs; 32,768 need 18 GB


def plain(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """As the paper's pseudocode has it (arXiv 2103.00020)."""
    logits, target = scale * a @ b.T, torch.arange(len(a))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def measured(name: str, count: int) -> tuple[float, float, float]:
    """Loss, seconds and peak growth in MB, in a process that has done nothing before."""
    torch.manual_seed(0)
    before = _status("VmRSS")
    a, b = (normalize(torch.randn(count, DIM), dim=1).requires_grad_() for _ in range(2))
    began = time.perf_counter()
    loss = {"plain": plain, "tiled": info_nce}[name](a, b, torch.tensor(14.0, requires_grad=True))
    loss.backward()
    return loss.item(), time.perf_counter() - began, _status("VmHWM") - before


def _status(name: str) -> float:
    """A line of the kernel's account of this process, in MB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def main() -> None:
    """Prints one line a size; keeps them as JSON."""
    rows = {}
    for count in PAIRS:
        for name in ("plain", "tiled") if count <= PLAIN_MOST else ("tiled",):
            with multiprocessing.get_context("fork").Pool(1) as fresh:
                loss, seconds, memory = fresh.apply(measured, (name, count))
            row = {"loss": loss, "seconds": round(seconds, 2), "peak_mb": round(memory)}
            rows[f"{name} {count}"] = row
            print(f"{count:>6} pairs  {name}  {seconds:7.2f} s  {memory:8.0f} MB  loss {loss:.5f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "contrastive.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
