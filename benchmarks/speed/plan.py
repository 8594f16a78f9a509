"""`zoo plan`'s arithmetic held against one and two local processes.

    python -m zoo.benchmarks.speed.plan

A training step of one process says how many FLOPs a second a core does, an all-reduce of the
gradients' bytes how fast two processes exchange them; from both zoo.planning predicts a step of two
processes. The prediction hides the exchange behind the backward pass, for which a GPU has engines
of its own; processes on a CPU exchange with the core that computes, so the sum without hiding is
shown beside.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
import torch.distributed as dist
from zoo.benchmarks.speed.timing import RESULTS
from zoo.registry.build import resolve_recipe

import zoo
from zoo.demo.digits import write_digits
from zoo.planning import Cluster, step_time
from zoo.runs import Run
from zoo.workload import measure, real_members

MODEL = "digits-mae-tiny"
OPTIONS = (
    *("encoder.dim=256", "encoder.depth=6", "encoder.heads=4", "train.log_every=5"),
    *("train.optimizer=adamw", "train.batch_size=128", "train.warmup=5", "train.loggers=[]"),
)
TURNS = 10  # of the exchange


def launched(processes: int, *words: str) -> str:
    """What a module printed that so many processes ran, one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout


def trained(folder: Path, data: Path, processes: int, steps: int) -> float:
    """Median seconds of a step, after the first row of the log."""
    out = folder / f"run-{processes}"
    words = ("--data", str(data), "--out", str(out), "--quiet", f"train.steps={steps}")
    launched(processes, "zoo", "pretrain", MODEL, *words, *OPTIONS)
    run = Run(out)
    rates = [row["samples_per_second"] for row in run.metrics[1:]]
    return run.recipe.train.batch_size / statistics.median(rates)


def exchange(size: int) -> None:
    """Prints the median seconds of an all-reduce of so many bytes: what each process does."""
    dist.init_process_group("gloo")
    values, seconds = torch.zeros(size // 4), []
    for _ in range(TURNS):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        seconds.append(time.perf_counter() - began)
    if dist.get_rank() == 0:
        click.echo(f"seconds {statistics.median(seconds)}")
    dist.destroy_process_group()


@click.command()
@click.option("--steps", default=60, show_default=True, help="Of each run.")
@click.option("--exchange", "size", type=int, hidden=True)
def command(steps: int, size: int | None) -> None:
    """Predicted against measured steps of two processes."""
    if size is not None:
        exchange(size)
        return
    with tempfile.TemporaryDirectory(prefix="zoo-plan-") as name:
        folder = Path(name)
        data = write_digits(folder / "shards")["train"]
        recipe = resolve_recipe(MODEL, str(data), (*OPTIONS, f"train.steps={steps}"))
        work = measure(recipe, *real_members(recipe))
        one, two = (trained(folder, data, processes, steps) for processes in (1, 2))
    # What one process waits for its samples is part of its step; all of it scales with the share.
    work = replace(work, sample_seconds=0.0, sample_bytes=0.0)
    size = int(work.gradient_bytes)
    words = launched(2, "zoo.benchmarks.speed.plan", "--exchange", str(size)).split()
    seconds = float(words[words.index("seconds") + 1])
    core = 3 * work.flops * work.batch_size / one
    cluster = Cluster(peak=core, utilisation=1.0, link=size / seconds, latency=0.0)
    compute, exposed, _ = step_time(work, cluster, 2)
    rows = {
        "measured, one process": one,
        "measured, two processes": two,
        "measured, exchange of two": seconds,
        "predicted, two processes": compute + exposed,
        "predicted, nothing hidden": compute + seconds,
    }
    for row, value in rows.items():
        click.echo(f"{row:<28} {1e3 * value:8.1f} ms")
    facts = {
        "zoo": zoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gflops_per_core": round(core / 1e9, 2),
        "rows": {row: {"median_ms": round(1e3 * value, 3)} for row, value in rows.items()},
        "predicted_over_measured": round((compute + exposed) / two, 3),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "plan_local.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    command()
