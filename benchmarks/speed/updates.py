"""Updates of a model as scripts compare them: forward, backward, AdamW, and the memory they need.

On one thread, because others use the machine; memory of each in a process of its own.
"""

import json
import multiprocessing
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from zoo.benchmarks.speed.timing import RESULTS

__all__ = ["THREADS", "Update", "keep_memory", "megabytes", "report_peaks", "update_of"]

THREADS = 1
Update = Callable[[], float]  # an update, which returns the loss before it


def update_of(
    loss: Callable[..., Tensor],
    parameters: Iterable[nn.Parameter],
    batch: Iterable[Tensor],
    *,
    half: bool = False,
    fused: bool | None = None,
) -> Update:
    """An update of `parameters`, with `half` in bfloat16; `fused` as AdamW takes it."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=fused)

    def update() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            value = loss(*batch)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.item()

    return update


def report_peaks(name: str, candidates: Mapping[str, Callable[[], Update]]) -> None:
    """Prints what a process reaches in two updates, and what the third one adds of tensors.

    The former is above the imports, model and optimizer included, and moves by some 5 % with the
    pages that the allocator finds; the latter counts bytes asked for, the same every time. Both are
    kept as JSON, `{name}_memory.json`.
    """
    spawn = multiprocessing.get_context("spawn")
    rows = {}
    for candidate, make in candidates.items():
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            process, tensors = pool.submit(_peaks, make).result()
        rows[candidate] = {"process_mb": round(process), "tensors_mb": round(tensors)}
        print(f"{candidate:<34} {process:>10.0f} MB, tensors of an update {tensors:>6.0f} MB")
    keep_memory(name, rows)


def keep_memory(name: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Writes `{name}_memory.json` among the results: a row of megabytes a candidate."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}_memory.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def _peaks(make: Callable[[], Update]) -> tuple[float, float]:
    torch.set_num_threads(THREADS)
    begins = megabytes("VmRSS")
    update = make()
    update()
    update()
    process = megabytes("VmHWM") - begins
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        update()
    assert run.profiler is not None
    assert run.profiler.kineto_results is not None
    asked = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    asked.sort(key=lambda event: event.start_ns())
    return process, max(accumulate(event.nbytes() for event in asked)) / 2**20


def megabytes(name: str) -> float:
    """Of this process: `VmRSS` now, `VmHWM` at most so far."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
