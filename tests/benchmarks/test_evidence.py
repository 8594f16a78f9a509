"""What is said about results: README's tables, and which ratios fell."""

import subprocess
from pathlib import Path

from click.testing import CliRunner
from zoo.benchmarks import speed
from zoo.benchmarks.readme import BEGIN, END, PAGE, render, replaced
from zoo.benchmarks.speed.__main__ import SCRIPTS, main
from zoo.benchmarks.speed.regression import changes, ratios


def test_readme_says_what_the_results_say():
    text = PAGE.read_text()
    block = BEGIN + text.split(BEGIN)[1].split(END)[0] + END
    assert block == render(), "results have changed: run `python -m zoo.benchmarks.readme`"


def test_only_the_block_is_replaced():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page, f"{BEGIN}\nnew\n{END}") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"


def rows(**found):
    base = {"peer": {"median_ms": 5.0, "times_faster_than_peer": 1.0}}
    return {"rows": base | {row: {"times_faster_than_peer": x} for row, x in found.items()}}


def test_ratios_are_compared_row_by_row():
    last = {"a.json": rows(zoo=2.0, gone=3.0), "b.json": rows(zoo=1.0), "c.json": {"facts": 1}}
    now = {"a.json": rows(zoo=1.4, new=9.0), "b.json": rows(zoo=1.0), "c.json": {"facts": 2}}
    assert ratios(last["a.json"]) == {"zoo": 2.0, "gone": 3.0}
    assert [*changes(last, now)] == [("a.json", "zoo", 2.0, 1.4), ("b.json", "zoo", 1.0, 1.0)]


def test_make_bench_runs_every_speed_script():
    scripts = {
        path.stem for path in Path(speed.__path__[0]).glob("*.py") if "__main__" in path.read_text()
    }
    assert scripts - {"__main__", "gpu", "regression"} == set(SCRIPTS)


def test_a_speed_script_that_fails_is_named_and_the_others_run(monkeypatch):
    ran = []

    def run(words, check):
        ran.append(words[-1].rpartition(".")[2])
        return subprocess.CompletedProcess(words, int(ran[-1] == "hub"))

    monkeypatch.setattr(subprocess, "run", run)
    done = CliRunner().invoke(main, ["hub", "plan"])
    assert ran == ["hub", "plan"]
    assert done.exit_code == 1
    assert "failed: hub" in done.output
