"""Training speed on one device: eager and compiled blocks, zoo's attention and the official one.

`python -m zoo.benchmarks.speed.gpu [--only mae-b] [--steps 100] [--device cuda] [--date ...]`

A step is forward, backward and fused AdamW under bfloat16 autocast, on raw synthetic input that
already lies on the device; the largest batch that fits is used. Variants of a model take turns, and
a row that fails says why and costs no other. `reference` is attention as facebookresearch/mae
computes it. Targets on one H200: MFU >= 40 % for MAE ViT-L, >= 35 % for MAE ViT-B; public runs of
encoders sit at 10 to 13 %.

Where zoo is not installed: `python .ci/typetree.py`, then the same with PYTHONPATH=.typing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import torch
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters
from torch.optim import AdamW
from zoo.benchmarks.speed.gpu_models import WORKLOADS, Workload, reference_attention
from zoo.benchmarks.speed.timing import RESULTS
from zoo.modalities.attention import available_backends
from zoo.modalities.contracts import Batch

import zoo
from zoo.training.wrap import blocks_of

__all__ = ["Bench", "Variant", "main", "measure", "variants"]

SIZES, TINY_SIZES = (1024, 512, 256, 128), (4, 2)
ROUNDS, WARM_UP, DISTINCT = 5, 3, 2
# Dense bfloat16 operations a second, by the vendor's data sheets (SXM).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}

Row = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run the same model."""

    compiled: bool
    attention: str  # "reference", "sdpa" or "xformers"

    @property
    def name(self) -> str:
        """As the table says it."""
        return f"{'compile' if self.compiled else 'eager'} {self.attention}"

    @contextmanager
    def attending(self) -> Iterator[None]:
        """This variant's attention meanwhile."""
        if self.attention == "reference":
            with reference_attention():
                yield
        else:
            with patch.dict(os.environ, {"ZOO_ATTENTION": self.attention}):
                yield


def variants(workload: Workload) -> list[Variant]:
    """The base of the ratios first."""
    kernels = ["sdpa"]
    if workload.chooses_kernels and "xformers (cuda)" in available_backends():
        kernels.append("xformers")
    grid = [Variant(compiled=c, attention=a) for c in (False, True) for a in kernels]
    first = [Variant(compiled=False, attention="reference")] if workload.has_reference else []
    return first + grid


class Bench:
    """One model and one optimiser, which all variants share."""

    def __init__(self, workload: Workload, device: torch.device, *, backend: str) -> None:
        """Puts the model on the device.

        Args:
            workload: what to train.
            device: where.
            backend: of `torch.compile`.
        """
        self.workload, self.device = workload, device
        modules = [workload.encoder.to(device).train(), workload.objective.to(device).train()]
        parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.optimizer = AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), fused=True)
        self.blocks = [block for module in modules for block in blocks_of(module)]
        dynamic = False if workload.static_shapes else None
        for block in self.blocks:
            block.compile(backend=backend, dynamic=dynamic)
        self._compiled = [block._compiled_call_impl for block in self.blocks]
        self._batches: dict[int, list[Batch]] = {}
        self._loss = torch.zeros(())

    def batches(self, size: int) -> list[Batch]:
        """The same few for every variant."""
        if size not in self._batches:
            self._batches[size] = [self.workload.batch(size) for _ in range(DISTINCT)]
        return self._batches[size]

    def run(self, variant: Variant, size: int, count: int) -> list[float]:
        """Milliseconds of each of `count` steps, one after the other."""
        for block, compiled in zip(self.blocks, self._compiled, strict=True):
            block._compiled_call_impl = compiled if variant.compiled else None
        batches = self.batches(size)
        with variant.attending():
            times = _timed(lambda i: self._step(batches[i % DISTINCT]), count, self.device)
        if not self._loss.isfinite():
            raise ValueError("the loss is not finite")
        return times

    def _step(self, batch: Batch) -> None:
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.workload.objective(self.workload.encoder, batch).total
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss = loss.detach()

    def forget(self) -> None:
        """Frees what a failed or finished variant left."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _timed(work: Callable[[int], None], count: int, device: torch.device) -> list[float]:
    """Milliseconds; on CUDA between events on the device, which the host need not wait for."""
    if device.type != "cuda":
        stamps = [time.perf_counter()]
        for i in range(count):
            work(i)
            stamps.append(time.perf_counter())
        return [(b - a) * 1e3 for a, b in pairwise(stamps)]
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    torch.cuda.synchronize()
    events[0].record()
    for i in range(count):
        work(i)
        events[i + 1].record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(events)]


@dataclass(slots=True)
class _Trial:
    """One variant at the largest batch that fits."""

    variant: Variant
    size: int
    row: Row
    rounds: list[list[float]] = field(default_factory=list)


def _fit(bench: Bench, variant: Variant, sizes: Sequence[int]) -> _Trial:
    """Finds the batch; notes peak memory and the first step's time, compilation included.

    Raises:
        torch.OutOfMemoryError: not even the smallest fits.
    """
    for size in sizes:
        counters.clear()
        try:
            first = bench.run(variant, size, 1)[0]
            bench.run(variant, size, WARM_UP)
            row: Row = {"batch": size, "first_step_s": round(first / 1e3, 2)}
            if variant.compiled:
                row["graph_breaks"] = sum(counters["graph_break"].values())
            if bench.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                bench.run(variant, size, 2)
                row["peak_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            return _Trial(variant, size, row)
        except torch.OutOfMemoryError:
            pass  # outside the handler, which holds the frames and so the tensors
        bench.forget()
        torch.compiler.reset()  # a second shape must not make the first one's code dynamic
    raise torch.OutOfMemoryError(f"out of memory even with batches of {sizes[-1]}")


def measure(
    bench: Bench, ways: Sequence[Variant], sizes: Sequence[int], steps: int
) -> dict[str, Row]:
    """A row for each variant, by name.

    Args:
        bench: the model.
        ways: its variants; the first is what the others are compared with.
        sizes: of batches, in the order in which they are tried.
        steps: timed ones of each variant, in `ROUNDS` turns.
    """
    rows: dict[str, Row] = {}
    trials: list[_Trial] = []
    for variant in ways:
        try:
            trials.append(_fit(bench, variant, sizes))
        except Exception as error:
            rows[variant.name] = {"error": _reason(error)}
        bench.forget()
    for turn in range(ROUNDS):
        for trial in list(trials if turn % 2 == 0 else reversed(trials)):
            try:
                bench.run(trial.variant, trial.size, WARM_UP)
                count = -(-steps // ROUNDS)
                trial.rounds.append(bench.run(trial.variant, trial.size, count))
            except Exception as error:
                rows[trial.variant.name] = trial.row | {"error": _reason(error)}
                trials.remove(trial)
            bench.forget()
    base = next((t for t in trials if t.variant == ways[0]), None)
    for trial in trials:
        rows[trial.variant.name] = trial.row | _figures(bench, trial, base)
    return {variant.name: rows[variant.name] for variant in ways}


def _figures(bench: Bench, trial: _Trial, base: _Trial | None) -> Row:
    costs = [bench.workload.cost(batch) for batch in bench.batches(trial.size)]
    times = [t for turn in trial.rounds for t in turn]
    median = statistics.median(times)
    seconds = median / 1e3
    flops = 3 * statistics.mean(cost.flops for cost in costs)
    row: Row = {
        "steps": len(times),
        "median_ms": round(median, 3),
        "min_ms": round(min(times), 3),
        "max_ms": round(max(times), 3),
        "samples_per_second": round(statistics.mean(c.samples for c in costs) / seconds, 1),
        "tokens_per_second": round(statistics.mean(c.tokens for c in costs) / seconds),
        "model_tflops_per_second": round(flops / seconds / 1e12, 3),
    }
    peak = _peak(bench.device)
    if peak is not None:
        row["mfu"] = round(flops / seconds / peak, 4)
    if base is not None:
        turns = zip(base.rounds, trial.rounds, strict=True)
        ratios = [statistics.median(b) / statistics.median(t) for b, t in turns]
        ratio = statistics.median(ratios) * trial.size / base.size  # by sample
        row[f"times_faster_than_{base.variant.name}"] = round(ratio, 3)
    return row


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _peak(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _told(*command: str) -> str | None:
    """First line of what a program prints, if it is there and content."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None


def _facts(device: torch.device, date: str | None, commit: str | None) -> Row:
    here = str(Path(__file__).parent)
    facts: Row = {
        "date": date,
        "commit": commit or _told("git", "-C", here, "rev-parse", "HEAD"),
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "attention": available_backends(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": "bfloat16 autocast",
    }
    if device.type == "cuda":
        query = "--query-gpu=driver_version,power.limit,clocks.max.sm"
        facts |= {
            "device": torch.cuda.get_device_name(),
            "memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1),
            "peak_bf16_flops": _peak(device),
            "driver_power_limit_clock": _told("nvidia-smi", query, "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


def _shown(model: str, variant: str, row: Row) -> str:
    head = f"{model:<14} {variant:<16}"
    if "error" in row:
        return f"{head} error: {row['error']}"
    mfu, memory = row.get("mfu"), row.get("peak_memory_gb")
    ratio = next((v for k, v in row.items() if k.startswith("times_faster")), None)
    return (
        f"{head} {row['batch']:>5} {row['median_ms']:>9.2f} ms {row['samples_per_second']:>10,.0f} "
        f"samples/s {row['tokens_per_second']:>12,} tokens/s  MFU "
        f"{'-' if mfu is None else f'{mfu:.1%}':>6}  {'-' if memory is None else memory:>6} GB"
        f"{'' if ratio is None else f'  x{ratio:.2f}'}"
    )


def main(arguments: Sequence[str] | None = None) -> Path:
    """Runs the chosen models; the JSON is written anew after each. Returns its path."""
    parser = argparse.ArgumentParser(description="training speed on one device")
    names = list(WORKLOADS)
    parser.add_argument("--only", action="append", choices=names, help="a model; may be repeated")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of each variant")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="minute sizes: does the script work?")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--date", help="for the record")
    parser.add_argument("--commit", help="for the record, where git cannot say")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    facts = _facts(device, options.date, options.commit)
    kind = str(facts.get("device", device.type)).lower().replace(" ", "-")
    parts = ["gpu", kind, *(["tiny"] if options.tiny else []), *(options.only or [])]
    path: Path = options.out / f"{'-'.join(parts)}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    models: dict[str, dict[str, Row]] = {}
    for name in options.only or names:
        models[name] = _rows_of(name, options, device)
        for variant, row in models[name].items():
            print(_shown(name, variant, row), flush=True)
        path.write_text(json.dumps({**facts, "models": models}, indent=1) + "\n")
    return path


def _rows_of(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Row]:
    torch.manual_seed(0)
    torch.compiler.reset()
    try:
        bench = Bench(WORKLOADS[name](device, tiny=options.tiny), device, backend=options.backend)
        # Beyond its limit the compiler gives up without a word, and eager code would be timed.
        with dynamo_config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True):
            sizes = TINY_SIZES if options.tiny else SIZES
            return measure(bench, variants(bench.workload), sizes, options.steps)
    except Exception as error:
        return {"-": {"error": _reason(error)}}


if __name__ == "__main__":
    main()
