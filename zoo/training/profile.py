"""`zoo pretrain --profile`: where the time of a step goes.

A step's time is kernels (what runs on the GPU, or operators where there is none), data (the loop
waits for a batch and no kernel runs) and host (everything else: Python, launching kernels).
Waiting for other processes is a kernel on GPUs and host time on CPUs.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from zoo.files import storage_errors, write_atomic

__all__ = ["SUMMARY", "profiled", "waiting_for_data"]

_log = logging.getLogger("zoo")
SUMMARY, TRACE, TEXT = "summary.json", "trace.json.gz", "summary.txt"
_DATA, _STEP = "zoo: wait for data", "ProfilerStep"
_TOP = 10  # operators that the summary lists


def waiting_for_data() -> AbstractContextManager[object]:
    """Marks what the loop spends on getting a batch; costs next to nothing without a profile."""
    return record_function(_DATA)


@contextmanager
def profiled(
    folder: Path, enabled: bool = True, *, skip: int = 5, steps: int = 10
) -> Iterator[Callable[[], None]]:
    """Profiles a few steps; gives what is to be called after each step.

    Writes a trace for chrome://tracing or ui.perfetto.dev, and a summary as JSON and as text.

    Args:
        folder: gets the files.
        enabled: False does nothing, at no cost.
        skip: steps at the start that are left alone: they compile, tune, and fill caches.
        steps: that are profiled; fewer where the run ends before.

    Raises:
        StorageError: the files cannot be written.
    """
    if not enabled:
        yield lambda: None
        return
    done = False

    def write(profiler: profile) -> None:
        nonlocal done
        done = True
        _write(profiler, folder, steps=profiler.step_num - skip)

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    else:  # the profiler's library calls it an error that there is no GPU
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    plan = schedule(wait=max(0, skip - 1), warmup=min(1, skip), active=steps, repeat=1)
    with profile(
        activities=activities, schedule=plan, on_trace_ready=write, acc_events=True
    ) as profiler:
        yield profiler.step
    if not done:
        _log.warning("no profile: the run ended within the %d steps that are left alone", skip)


def _write(profiler: profile, folder: Path, *, steps: int) -> None:
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".tmp-{TRACE}"
        profiler.export_chrome_trace(str(draft))
        draft.replace(folder / TRACE)
    summary = _summary(list(profiler.events() or ()), steps)
    write_atomic(folder / SUMMARY, json.dumps(summary, indent=1) + "\n")
    write_atomic(folder / TEXT, _text(summary))
    _log.info("profile: %s", folder)


def _summary(events: Sequence[FunctionEvent], count: int) -> dict[str, object]:
    """Milliseconds of each of `count` steps by what they went to, and what took most."""
    host = [event for event in events if event.device_type.name == "CPU"]
    # The last tick opens one step more; what belongs to it is no step's business.
    steps = [event for event in host if event.name.startswith(_STEP)][:count]
    end = max((step.time_range.end for step in steps), default=0.0)
    host = [event for event in host if event.time_range.end <= end]
    waits = [event for event in host if event.name == _DATA]
    work = [e for e in events if e.device_type.name != "CPU" and not e.is_user_annotation]
    on_gpu = bool(work)
    if not on_gpu:
        threads = {event.thread for event in steps}
        work = [e for e in host if e.thread in threads and _is_operator(e)]
    whole, busy = _covered(steps), _covered(work)
    data = _covered([*work, *waits]) - busy
    operators: dict[str, list[float]] = {}
    for event in work:
        own = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        operators.setdefault(event.name, []).append(own)
    top = sorted(operators.items(), key=lambda item: -sum(item[1]))[:_TOP]
    return {
        "steps": count,
        "kernels_on": "gpu" if on_gpu else "cpu",
        "step_ms": whole / count / 1000,
        "data_ms": data / count / 1000,
        "kernels_ms": busy / count / 1000,
        "host_ms": max(0.0, whole - data - busy) / count / 1000,
        "operators": [
            {"name": name, "ms": sum(times) / count / 1000, "calls": len(times) / count}
            for name, times in top
        ],
    }


def _is_operator(event: FunctionEvent) -> bool:
    """Not a mark of somebody's, and not part of making a batch."""
    if event.is_user_annotation:
        return False
    parent = event.cpu_parent
    while parent is not None:
        if parent.name == _DATA:
            return False
        parent = parent.cpu_parent
    return True


def _covered(events: Iterable[FunctionEvent]) -> float:
    """Microseconds in which at least one of the events was under way."""
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _text(summary: Mapping[str, Any]) -> str:
    where = {"gpu": "kernels on the GPU", "cpu": "operators on the CPU"}[summary["kernels_on"]]
    whole = max(1e-9, summary["step_ms"])
    lines = [f"{summary['steps']} steps of {summary['step_ms']:.2f} ms"]
    for key, what in (
        ("data_ms", "waiting for data"),
        ("kernels_ms", where),
        ("host_ms", "host: everything else"),
    ):
        lines.append(f"{summary[key]:10.2f} ms {summary[key] / whole:6.1%}  {what}")
    lines.append("ms and calls a step of the operators that take most:")
    lines += [
        f"{row['ms']:10.2f} ms {row['calls']:6.0f}  {row['name']}" for row in summary["operators"]
    ]
    return "\n".join(lines) + "\n"
