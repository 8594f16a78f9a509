"""docs/promises.md: what the parts of the plan ask for, beside what was measured.

    python -m zoo.benchmarks.promises

Targets are `promises.toml`; measured values are read from `benchmarks/results`. A test fails when
the page differs.
"""

import json
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.benchmarks.speed.timing import RESULTS
from zoo.benchmarks.tables.sklearn_bars import BARS, GROUPS, KEPT, read_scores
from zoo.registry.schema import read

from zoo.files import write_atomic

__all__ = ["PAGE", "Promise", "promises", "render"]

PAGE = Path(__file__).parent.parent / "docs" / "promises.md"
DATA = Path(__file__).with_suffix(".toml")
HEAD = """\
# Every promise

Made by `python -m zoo.benchmarks.promises` from [promises.toml](../benchmarks/promises.toml) and
[results](../benchmarks/results). Two shared CPU cores; no GPU was lent. Ratios to a peer are
medians over rounds of one run. What tests prove is met as long as they pass.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A target, and where its measured value comes from.

    Attributes:
        part: of the plan, 1 to 10.
        target: in words, with the number that is asked for.
        command: what prints the value.
        file: of the results, without its ending; `path` leads to a number in it.
        over: path to a number that the first is divided by.
        minus: path to a number that is subtracted from it.
        inverse: whether one over the number counts; before `scale`, which it is multiplied by.
        shown: how the number is written.
        least: what it must reach; `most` what it may reach.
        count: of the results, a pattern of files that are counted.
        bar: of `sklearn_bars`, judged from the scores of all splits.
        tests: below tests/, which prove it.
        measured: text in the place of a number.
        met: yes, no, partly or not measured, where no number decides.
        why: it is not met, in one clause.
    """

    part: int
    target: str
    command: str = ""
    file: str = ""
    path: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()
    inverse: bool = False
    scale: float = 1.0
    shown: str = "{:.3g} times"
    least: float | None = None
    most: float | None = None
    count: str = ""
    bar: str = ""
    tests: tuple[str, ...] = ()
    measured: str = ""
    met: str = ""
    why: str = ""


def promises() -> list[Promise]:
    """All of them, in the order of the file.

    Raises:
        ConfigError: one does not fit; names it.
    """
    tables = tomllib.loads(DATA.read_text())["promise"]
    return [read(Promise, table, where=f"{DATA.name}: {table['target']}") for table in tables]


def number(promise: Promise, folder: Path) -> float:
    """The measured value, of a promise with a file or a count of files."""
    if promise.count:
        return len([*folder.glob(promise.count)])
    facts = json.loads((folder / f"{promise.file}.json").read_text())
    value = _at(facts, promise.path)
    if promise.over:
        value /= _at(facts, promise.over)
    if promise.minus:
        value -= _at(facts, promise.minus)
    return promise.scale * (1 / value if promise.inverse else value)


def _at(facts: Any, path: tuple[str, ...]) -> float:  # noqa: ANN401 - any JSON
    for name in path:
        facts = facts[int(name)] if isinstance(facts, list) else facts[name]
    return float(facts)


def judged(promise: Promise, folder: Path) -> tuple[str, str]:
    """What was measured, and whether the promise is met."""
    if promise.file or promise.count:
        value = number(promise, folder)
        high = promise.least is None or value >= promise.least
        low = promise.most is None or value <= promise.most
        return promise.shown.format(value), promise.met or ("yes" if high and low else "no")
    if promise.bar:
        verdict, _, said = _bar(promise.bar, folder).partition(": ")
        return said, "yes" if verdict == "met" else "no"
    if promise.tests:
        return "tests", "yes"
    return promise.measured or "not measured", promise.met or "not measured"


def _bar(name: str, folder: Path) -> str:
    found = read_scores(folder / KEPT)[GROUPS[name]]
    scores = {of_set: [*splits.values()] for of_set, splits in found.items()}
    return BARS[name]({GROUPS[name]: scores})[-1]


def _command(promise: Promise) -> str:
    if not promise.tests:
        return f"`{promise.command}`" if promise.command else ""
    return "<br>".join(f"`{name}`" for name in promise.tests)


def render(folder: Path = RESULTS) -> str:
    """The page."""
    lines, counts = [], Counter[str]()
    for promise in promises():
        measured, met = judged(promise, folder)
        counts[met] += 1
        why = "" if met == "yes" else promise.why
        cells = (str(promise.part), promise.target, measured, _command(promise), met, why)
        lines.append(f"| {' | '.join(cells)} |")
    said = ", ".join(f"{met}: {count}" for met, count in counts.items())
    head = (
        "| part | target | measured | command or tests | met | why not |",
        "|---:|" + "---|" * 5,
    )
    return "\n".join((HEAD, f"Met, in rows: {said}.", "", *head, *lines, ""))


if __name__ == "__main__":
    write_atomic(PAGE, render())
