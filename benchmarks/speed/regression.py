"""Whether the figures of `make bench` fell against the last ones: ratios, not seconds.

    python -m zoo.benchmarks.speed.regression

Ratios to a peer of the same run hardly depend on the machine; the last ones are those of the commit
that is checked out. On a shared machine they move by a quarter from run to run, so that only a
larger fall counts.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from zoo.benchmarks.speed.timing import RESULTS

from zoo.errors import UsageError
from zoo.text import columns

__all__ = ["FALL", "PREFIX", "changes", "command", "ratios"]

FALL = 0.75  # of the last ratio; what is below counts as a regression
PREFIX = "times_faster_than_"

Change = tuple[str, str, float, float]  # file, row, last ratio, this one


def ratios(facts: Mapping[str, Any]) -> dict[str, float]:
    """How many times faster than the base of its file each row is; none for other files."""
    rows = facts.get("rows", {})
    return {
        row: ratio
        for row, found in (rows.items() if isinstance(rows, dict) else ())
        for key, ratio in found.items()
        if key.startswith(PREFIX) and key != PREFIX + row
    }


def changes(last: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Change]:
    """Rows that both have, by the names of their files."""
    for name in sorted(last.keys() & now.keys()):
        before, after = ratios(last[name]), ratios(now[name])
        for row in before.keys() & after.keys():
            yield name, row, before[row], after[row]


def committed(folder: Path) -> dict[str, Any]:
    """The results of the commit that is checked out.

    Raises:
        UsageError: the folder is in no repository.
    """

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UsageError(f"{folder}: no last results ({done.stderr.strip()})")
        return done.stdout

    names = [name for name in git("ls-tree", "--name-only", "HEAD", ".").split() if ".json" in name]
    return {
        name: json.loads(git("show", f"HEAD:./{name}")) for name in names if name.endswith(".json")
    }


@click.command()
def command() -> None:
    """Compares the results on the disk with the committed ones; exit code 1 where one fell."""
    now = {path.name: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    found = [one for one in changes(committed(RESULTS), now) if one[2] != one[3]]
    fallen = [one for one in found if one[3] < FALL * one[2]]
    head = ("file", "row", "last", "now", "now / last")
    rows = [(f, row, f"{a:.2f}", f"{b:.2f}", f"{b / a:.2f}") for f, row, a, b in fallen]
    click.echo(f"{len(found)} ratios changed, {len(fallen)} fell below {FALL} of the last")
    if fallen:
        click.echo(columns(head, rows))
        sys.exit(1)


if __name__ == "__main__":
    command()
