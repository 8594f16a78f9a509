"""What is kept in a folder of results, as parts of a page: claims, speed, and bars of tables.

A part whose results are absent says in a sentence what would make them.
"""

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.benchmarks.claims.claim import NAMES
from zoo.benchmarks.claims.results import effects, read_all
from zoo.benchmarks.readme import headlines
from zoo.benchmarks.speed.regression import PREFIX, ratios
from zoo.benchmarks.tables.sklearn_bars import BARS, GROUPS, KEPT, Scores, read

from zoo.report.forest import forest
from zoo.report.page import listing
from zoo.report.ratios import Group
from zoo.report.ratios import ratios as ratio_table

__all__ = ["bars_part", "claims_part", "speed_part"]

Facts = Mapping[str, Any]
_NAMED = {"zoo": "zoo {}", "torch": "torch {}", "python": "Python {}", "machine": "{}"}


def claims_part(folder: Path) -> list[str]:
    """Papers' claims with their intervals, whatever came out."""
    results = read_all(folder)
    if not results:
        return [_absent("claims", "zoo bench claims")]
    counts = Counter(result["verdict"] for result in results)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    tried = {result["claim"] for result in results}
    untried = [name for name in NAMES if name not in tried]
    without = f" No result is kept of {', '.join(untried)}." if untried else ""
    return [
        f"<p>What papers state, tried in miniatures: {said}.{html.escape(without)}</p>",
        forest(
            effects(results),
            caption="Gains with 95 % intervals over seeds, to the right what the paper says; the "
            "tick is the gain that was needed. Every line has a scale of its own.",
        ),
        "<details><summary>What was tried, and on what</summary>",
        f"<ul>{''.join(map(_tried, results))}</ul></details>",
        _measured_with(results),
    ]


def _tried(result: Facts) -> str:
    seeds = len(next(iter(result["values"].values())))
    facts = f"arXiv {result['paper']}; {result['data']}; {result['measure']}; {seeds} seeds"
    return (
        f"<li><b>{html.escape(result['claim'])}</b>, {html.escape(result['verdict'])}: "
        f"{html.escape(result['says'])} <span class=soft>{html.escape(facts)}</span></li>"
    )


def speed_part(folder: Path) -> list[str]:
    """How many times faster than a peer, in the same run on the same machine."""
    files = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    files = {name: facts for name, facts in files.items() if ratios(facts)}
    if not files:
        return [_absent("speed", "make bench, in a clone of the repository,")]
    groups = [_group(name, facts) for name, facts in files.items()]
    every = [times for group in groups for _, times in group.times]
    slower = [
        Group(group.title, lines)
        for group in groups
        if (lines := [(n, times) for n, times in group.times if "zoo" in n and times < 1])
    ]
    first = [
        (f"{words} ({base})", before / after) for words, base, before, after in headlines(folder)
    ]
    tables = {
        "In short, medians; in brackets the peer": [Group("", first)] if first else [],
        "Where zoo is slower": slower,
    }
    return [
        f"<p>{len(files)} measurements, each beside its peer in one run. Bars to the right of 1 "
        "are faster.</p>",
        *(ratio_table(shown, caption=caption) for caption, shown in tables.items() if shown),
        f"<details><summary>All {len(every)} ratios</summary>"
        + ratio_table(groups, caption="Medians of the ratios of rounds")
        + "</details>",
        _measured_with(files.values()),
    ]


def _group(name: str, facts: Facts) -> Group:
    rows = facts["rows"]
    base = next(key.removeprefix(PREFIX) for row in rows.values() for key in row if PREFIX in key)
    against = f"{name.replace('_', ' ')}: against {base}"
    if "median_ms" in rows.get(base, {}):
        against += f", {rows[base]['median_ms']:,.1f} ms"
    return Group(against, [*ratios(facts).items()])


def bars_part(folder: Path) -> list[str]:
    """The bars that pretrained rows of tables had to clear, judged from all splits."""
    found = read(folder / KEPT)
    if not found:
        return [_absent("tables", "python -m zoo.benchmarks.tables.sklearn_tables")]
    scores = {
        group: {name: [*splits.values()] for name, splits in sets.items()}
        for group, sets in found.items()
    }
    rows: list[tuple[str, str]] = []
    lines: list[str] = []
    for bar, judge in BARS.items():
        if GROUPS[bar] not in scores:
            continue
        asked = (judge.__doc__ or "").removeprefix(f"{bar}: ")
        *shown, verdict = judge(scores)
        rows.append((f"{bar}: {asked}", verdict))
        lines += [f"{bar} {line}" for line in shown]
    met = sum(verdict.startswith("met") for *_, verdict in rows)
    return [
        "<p>UniTabE in small, pretrained on unlabelled rows, on scikit-learn's five real tables: "
        f"{met} of {len(rows)} bars are met.</p>",
        listing(("asked for", "found"), rows, caption=f"{_splits(scores)} splits of each set"),
        "<details><summary>Every set</summary>",
        f"<pre class=wrapped>{html.escape(chr(10).join(lines))}</pre></details>",
    ]


def _splits(scores: Scores) -> str:
    counts = {len(splits) for sets in scores.values() for splits in sets.values()}
    return " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))


def _absent(what: str, command: str) -> str:
    said = html.escape(f"No results of {what} are here: {command} makes them.")
    return f"<p class=soft>{said}</p>"


def _measured_with(results: Iterable[Facts]) -> str:
    """Versions and machines, each once."""
    found = [*results]
    said = [
        shape.format(value)
        for name, shape in _NAMED.items()
        for value in dict.fromkeys(str(facts[name]) for facts in found if name in facts)
    ]
    return f"<p class=soft>Measured with {html.escape(', '.join(said))}.</p>"
