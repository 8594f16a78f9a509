"""How long a masked-LM run waits for its data: the target is below 5 % of the time on two cores.

The model, batches and functions of zoo.benchmarks.speed.code, but from shards and through
`zoo.pretrain`: the loader's workers read, tokenise, mask and pack while the main process trains.
The share is the loop's own (`data_wait` of metrics.jsonl), without the steps in which the workers
start.
"""

import json
import os
import platform
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from zoo.benchmarks.speed.code import CONFIG, LONGEST, TASK, TEXTS, functions
from zoo.benchmarks.speed.timing import RESULTS
from zoo.modalities.code.codec import CodeCodec

import zoo

STEPS, EVERY = 60, 10  # of which the first row does not count
MODEL = "stdlib-mlm-tiny"
OPTIONS: dict[str, object] = {
    **{f"encoder.{name}": value for name, value in asdict(CONFIG).items()},
    "preprocess.max_length": LONGEST,
    "objective.mask_ratio": TASK.mask_ratio,
    "objective.head_bias": TASK.head_bias,
    "train.optimizer": "adamw",
    "train.lr": 5e-4,
    "train.batch_size": TEXTS,
    "train.steps": STEPS,
    "train.log_every": EVERY,
    "train.save_every": STEPS,
}


def rows(folder: Path) -> list[dict[str, float]]:
    """What the run logged, but for its first row."""
    codec = CodeCodec()
    texts = enumerate(functions())
    zoo.write_shards(((f"{i:06d}", codec.encode({"text": t})) for i, t in texts), folder / "shards")
    run = zoo.pretrain(MODEL, folder / "shards", folder / "run", OPTIONS, progress=False)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


def main() -> None:
    """Trains, prints, and keeps the figures."""
    with tempfile.TemporaryDirectory(prefix="zoo-waiting-") as name:
        found = rows(Path(name))
    waited = [row["data_wait"] for row in found]
    facts = {
        "zoo": zoo.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "steps": [EVERY, STEPS],
        "share_of_waiting": round(statistics.mean(waited), 5),
        "most_in_ten_steps": round(max(waited), 5),
        "texts_per_second": round(statistics.mean(row["samples_per_second"] for row in found), 1),
    }
    print(
        f"waits for data {facts['share_of_waiting']:.2%} of the time, at most "
        f"{facts['most_in_ten_steps']:.2%} in {EVERY} steps; {facts['texts_per_second']} texts/s"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "code_waiting.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
