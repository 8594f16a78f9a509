"""docs/promises.md: what was asked for, beside what the results say."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from zoo.benchmarks.promises import PAGE, Promise, judged, promises, render
from zoo.benchmarks.speed.timing import RESULTS

TESTS = Path(__file__).parents[1]


@pytest.mark.tree
def test_the_page_says_what_the_results_say():
    fresh = PAGE.read_text() == render()
    assert fresh, "results have changed: run `python -m zoo.benchmarks.promises`"


@pytest.mark.tree
def test_what_is_not_met_says_why():
    assert not [p.target for p in promises() if judged(p, RESULTS)[1] != "yes" and not p.why]


def test_tests_and_commands_exist():
    for promise in promises():
        for name in promise.tests:
            file, _, function = name.partition("::")
            text = (TESTS / file).read_text()
            assert not function or f"def {function}(" in text, name
        for module in re.findall(r"python -m (zoo[\w.]+)", promise.command):
            assert find_spec(module), module
        assert promise.tests or promise.command or not promise.measured, promise.target


def test_numbers_decide(tmp_path):
    rows = {"peer": {"ms": 6.0}, "zoo": {"ms": 2.0}}
    (tmp_path / "speed.json").write_text(json.dumps({"rows": rows, "list": [8]}))

    def said(*path, **more):
        promise = Promise(part=1, target="", file="speed", path=path, **more)
        return judged(promise, tmp_path)

    times = {"over": ("rows", "zoo", "ms")}
    assert said("rows", "peer", "ms", **times, least=3) == ("3 times", "yes")
    assert said("rows", "peer", "ms", **times, least=3.1) == ("3 times", "no")
    assert said("list", "0", minus=("rows", "zoo", "ms"), shown="{:.0f} MB", most=5)[1] == "no"
    assert said("list", "0", inverse=True, scale=4, shown="{}", most=0.5) == ("0.5", "yes")
    assert judged(Promise(part=1, target="", count="*.json", least=1), tmp_path)[1] == "yes"
    assert judged(Promise(part=1, target=""), tmp_path) == ("not measured", "not measured")
