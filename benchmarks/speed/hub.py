"""What loading and listing cost a fresh process in CPU time and memory, against timm and Python.

Targets: `zoo.load` of a local ViT-B/16 export, digests checked, at most half of timm's CPU for its
local-dir, at most 0.25 s and 60 MB above `import torch` before the first forward, at most 60 ms
once warm; `zoo list` at most 60 ms above Python itself.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from zoo.benchmarks.speed.timing import RESULTS
from zoo.hub.export import save_export
from zoo.hub.timm import save_timm
from zoo.registry.build import encoder_spec

import zoo

ROUNDS = 15
WARM = """
import statistics, time, zoo
zoo.load({path!r})
times = []
for _ in range(9):
    began = time.process_time()
    zoo.load({path!r})
    times.append(time.process_time() - began)
print(statistics.median(times))
"""
# In kB, of this program alone: what getrusage says begins with the size of the parent.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measure(words: list[str], compiled: Path) -> tuple[float, str]:
    """CPU seconds of a new process, and what it printed.

    Args:
        words: the interpreter's arguments.
        compiled: a folder for bytecode, as an installed package has it; `PYTHONDONTWRITEBYTECODE`
            would have every process compile a working tree's files again.
    """
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(compiled), "PYTHONDONTWRITEBYTECODE": ""}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def compare(candidates: dict[str, list[str]], compiled: Path) -> dict[str, dict[str, float]]:
    """Medians over rounds in which every candidate has its turn; a first round does not count.

    `above_base_s` is the median of each round's difference to Python, or to `import torch`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    peaks: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(ROUNDS + 1):
        for name, words in candidates.items():
            spent, said = measure(words, compiled)
            if number:
                seconds[name].append(spent)
                if (last := said.strip().rpartition("\n")[2]).isdigit():
                    peaks[name].append(int(last) / 1024)
    rows = {
        name: {"cpu_s": round(statistics.median(seconds[name]), 3)}
        | ({"peak_mb": round(statistics.median(peaks[name]), 1)} if peaks[name] else {})
        for name in candidates
    }
    for name, base in (("zoo list", "python"), ("zoo.load", "import torch")):
        pairs = zip(seconds[name], seconds[base], strict=True)
        rows[name]["above_base_s"] = round(statistics.median(a - b for a, b in pairs), 3)
    return rows


def main() -> None:
    """Measures, prints a table, and keeps it as JSON."""
    with tempfile.TemporaryDirectory() as place:
        ours, theirs, compiled = (Path(place) / name for name in ("zoo", "timm", "compiled"))
        encoder = zoo.create("mae-base", seed=0)
        save_export(ours, encoder, encoder_spec("mae-base", {}))
        save_timm(theirs, encoder)
        load = f"import zoo; encoder = zoo.load({str(ours)!r})"
        timm = f"import timm; m = timm.create_model('local-dir:{theirs}', pretrained=True).eval()"
        found = compare(
            {
                "python": ["-c", "pass"],
                "zoo list": ["-m", "zoo", "list"],
                "import torch": ["-c", "import torch" + PEAK],
                "zoo.load": ["-c", load + PEAK],
                "timm.create_model": ["-c", timm + PEAK],
            },
            compiled,
        )
        _, warm = measure(["-c", WARM.format(path=str(ours))], compiled)
        found["zoo.load, warm"] = {"cpu_s": round(float(warm), 4)}
    for name, row in found.items():
        print(f"{name:<20}", *(f"{key} {value:>9}" for key, value in row.items()))
    facts = {
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": ROUNDS,
        "rows": found,
    }
    (RESULTS / "hub.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
