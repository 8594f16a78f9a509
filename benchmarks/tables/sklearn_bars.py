"""The bars B1 to B7 of specification `tabular`, 5.6, judged from the scores of all splits.

A verdict is a line a set, and a last one that says whether the bar is met. Differences between
splits carry the corrected resampled t (critical 2.26 with 10 splits) and Alpaydin's combined F
(4.74; it ignores the sign).

Notation: S splits.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["BARS", "GROUPS", "KEPT", "Row", "Scores", "combined_f", "corrected_t", "ranks", "read"]

KEPT = "tabular_bars.jsonl"
Row = Mapping[str, float]
Scores = Mapping[str, Mapping[str, Sequence[Row]]]  # of a group of measurements, a set, its splits
Floats = NDArray[np.float64]


def read(path: Path, steps: int | None = None) -> dict[str, dict[str, dict[int, Row]]]:
    """What is scored, by group, set and split.

    Args:
        path: lines of JSON.
        steps: of pretraining; by default the most that each group has.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    wanted: dict[str, int] = {}
    for line in lines:
        most = max(line["steps"], wanted.get(line["group"], 0))
        wanted[line["group"]] = most if steps is None else steps
    found: dict[str, dict[str, dict[int, Row]]] = {}
    for line in lines:
        if line["steps"] == wanted[line["group"]]:
            of_set = found.setdefault(line["group"], {}).setdefault(line["set"], {})
            of_set[line["split"]] = line["scores"]
    return found


def corrected_t(differences: Floats) -> float:
    """The corrected resampled t of 5 x 2 splits: variance times (1 / S + 1)."""
    count = len(differences)
    spread = differences.var(ddof=1) * (1 / count + 1)
    return float(differences.mean() / np.sqrt(spread)) if spread else 0.0


def combined_f(differences: Floats) -> float:
    """Alpaydin's combined 5 x 2 cv F, 10 and 5 degrees of freedom; it ignores the sign."""
    pairs = differences.reshape(-1, 2)
    spread = ((pairs - pairs.mean(1, keepdims=True)) ** 2).sum()
    return float((pairs**2).sum() / (2 * spread)) if spread else 0.0


def ranks(rows: Sequence[Row], ending: str) -> dict[str, float]:
    """Mean rank over the splits of all that was scored under this ending; 1 is best."""
    names = [name for name in rows[0] if name.endswith(f" {ending}")]
    table = np.array([[row[name] for name in names] for row in rows])
    found = stats.rankdata(-table, axis=1).mean(0)
    return dict(zip(names, found.tolist(), strict=True))


def _column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows])


def _paired(rows: Sequence[Row], left: str, right: str) -> tuple[float, str]:
    d = _column(rows, left) - _column(rows, right)
    said = f"{left} - {right} {d.mean():+.4f}, wins {(d > 0).sum()}/{len(d)}"
    if len(d) > 1:
        said += f", t {corrected_t(d):.2f}"
    if len(d) == 10:
        said += f", F {combined_f(d):.2f}, Wilcoxon p {stats.wilcoxon(d).pvalue:.3f}"
    return float(d.mean()), said


def _verdict(met: bool, what: str) -> str:
    return f"{'met' if met else 'MISSED'}: {what}"


def pretraining_helps(scores: Scores) -> list[str]:
    """B1: above random weights on all sets with 10 and 20 labels, on all but one with 50."""
    lines, wins = [], {10: 0, 20: 0, 50: 0}
    for name, rows in scores["clean"].items():
        for count in wins:
            mean, said = _paired(rows, f"pretrained {count}", f"random {count}")
            wins[count] += mean > 0
            lines.append(f"{name}: {said}")
    sets = len(scores["clean"])
    met = wins[10] == wins[20] == sets and wins[50] >= sets - 1
    said = ", ".join(f"{won} of {sets} sets with {count} labels" for count, won in wins.items())
    return [*lines, _verdict(met, said)]


def beats_raw_input(scores: Scores) -> list[str]:
    """B2: raw + embedding is not below raw on three sets of five, and nowhere far below."""
    lines, won, worst = [], {10: 0, 20: 0}, True
    for name, rows in scores["clean"].items():
        for count in won:
            mean, said = _paired(rows, f"raw + pretrained {count}", f"raw {count}")
            won[count] += mean >= 0
            worst &= mean >= -(0.05 if name == "diabetes" else 0.01)
            lines.append(f"{name}: {said}")
    sets = len(scores["clean"])
    said = ", ".join(f"{n} of {sets} sets with {count} labels" for count, n in won.items())
    said += "" if worst else "; a set falls further than it may"
    return [*lines, _verdict(worst and min(won.values()) >= 0.6 * sets, said)]


def near_best(scores: Scores) -> list[str]:
    """B3: with all labels within 1 point (0.02 R2) of the best baseline."""
    lines, near = [], 0
    for name, rows in scores["clean"].items():
        means = {key: _column(rows, key).mean() for key in rows[0] if key.startswith("baseline ")}
        best = max(means, key=lambda key: means[key])
        mean, said = _paired(rows, "raw + pretrained all", best)
        near += mean >= -(0.02 if name == "diabetes" else 0.01)
        lines.append(f"{name}: {said}")
    sets = len(scores["clean"])
    return [*lines, _verdict(near == sets, f"{near} of {sets} sets")]


def imputes(scores: Scores) -> list[str]:
    """B4: the error of hidden cells is below neighbours' and iterative ridge's on four of five."""
    lines, below = [], 0
    for name, rows in scores["clean"].items():
        good = True
        for rate in ("0.3", "0.5"):
            means = {
                kind: _column(rows, f"rmse {kind} {rate}").mean()
                for kind in ("masked cells", "knn5", "iterative ridge", "mean")
            }
            good &= means["masked cells"] < min(means["knn5"], means["iterative ridge"])
            said = ", ".join(f"{kind} {value:.3f}" for kind, value in means.items())
            lines.append(f"{name}: {rate} hidden, rmse: {said}")
        below += good
    sets = len(scores["clean"])
    return [*lines, _verdict(below >= 0.8 * sets, f"{below} of {sets} sets")]


def columns_change(scores: Scores) -> list[str]:
    """B5: columns that training never saw do no harm, and names are read."""
    lines, fine = [], 0
    for name, rows in scores["columns"].items():
        more, said = _paired(rows, "new columns", "without")
        permuted, also = _paired(rows, "names permuted", "new columns")
        fine += more >= 0 > permuted
        lines += [f"{name}: {said}", f"{name}: {also}"]
    sets = len(scores["columns"])
    return [*lines, _verdict(fine == sets, f"{fine} of {sets} sets")]


def mixed_costs(scores: Scores) -> list[str]:
    """B6: the mixed view costs no more than it costs trees with native categories."""
    lines, fine = [], 0
    for name, rows in scores["mixed"].items():
        ours = (_column(rows, "ours clean") - _column(rows, "ours mixed")).mean()
        trees = (_column(rows, "hist_gb clean") - _column(rows, "hist_gb mixed")).mean()
        fine += ours <= trees
        lines.append(f"{name}: costs {ours:+.4f}, hist_gb {trees:+.4f}")
    sets = len(scores["mixed"])
    return [*lines, _verdict(fine == sets, f"{fine} of {sets} sets")]


def transfers(scores: Scores) -> list[str]:
    """B7: weights from other tables are above random ones on four sets of five."""
    lines, above = [], 0
    for name, rows in scores["transfer"].items():
        found = [_paired(rows, f"transferred {n}", f"random {n}") for n in ("10", "20", "50")]
        above += sum(mean for mean, _ in found) > 0
        lines += [f"{name}: {said}" for _, said in found]
    sets = len(scores["transfer"])
    return [*lines, _verdict(above >= 0.8 * sets, f"{above} of {sets} sets, mean over labels")]


BARS: dict[str, Callable[[Scores], list[str]]] = {
    "B1": pretraining_helps,
    "B2": beats_raw_input,
    "B3": near_best,
    "B4": imputes,
    "B5": columns_change,
    "B6": mixed_costs,
    "B7": transfers,
}
GROUPS = {
    **dict.fromkeys(("B1", "B2", "B3", "B4"), "clean"),
    "B5": "columns",
    "B6": "mixed",
    "B7": "transfer",
}
