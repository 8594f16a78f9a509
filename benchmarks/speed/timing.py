"""Fair timing on a shared machine: candidates in turn, medians and ratios of rounds."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import zoo

__all__ = ["RESULTS", "alternate", "report"]

_BESIDE = Path(__file__).parent.parent / "results"
RESULTS = _BESIDE if _BESIDE.is_dir() else Path("results")  # installed code is no place to write to


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each candidate by `clock`, round by round; one round before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, work in candidates.items():
            began = clock()
            work()
            if number:
                seconds[name].append(clock() - began)
    return seconds


def report(name: str, seconds: Mapping[str, list[float]], *, base: str) -> None:
    """Prints medians and the median of the paired ratios to `base`; keeps them as JSON."""
    rows = {}
    for candidate, times in seconds.items():
        ratios = [b / t for t, b in zip(times, seconds[base], strict=True)]
        rows[candidate] = {
            "median_ms": round(statistics.median(times) * 1e3, 3),
            "min_ms": round(min(times) * 1e3, 3),
            "max_ms": round(max(times) * 1e3, 3),
            f"times_faster_than_{base}": round(statistics.median(ratios), 3),
        }
        ratio = statistics.median(ratios)
        print(f"{candidate:<34} {rows[candidate]['median_ms']:>10.2f} ms   x{ratio:.2f}")
    facts = {
        "zoo": zoo.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": len(seconds[base]),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
