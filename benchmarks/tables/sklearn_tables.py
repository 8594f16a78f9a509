"""Pretrained rows against linear models and trees on scikit-learn's five real tables.

python -m zoo.benchmarks.tables.sklearn_tables --golden tests/golden/tabular --steps 500

Protocol: specification `tabular`, 5. breast_cancer and diabetes use the stored splits and are shown
beside the stored baselines; the other sets use splits of seeds 0 to 4. Nothing is fitted on a test
half. Scores are accuracy, or R2; every split's are written as JSON.

Notation: S splits, N rows, F features.
"""

import argparse
import base64
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]
from sklearn import datasets
from sklearn.impute import KNNImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from zoo.modalities.tabular.encoder import UniTabE
from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Cells, Table

import zoo
from zoo.tabular.imputer import Imputer
from zoo.tabular.shards import pretrain_tables

__all__ = [
    "SETS",
    "Dataset",
    "combined_f",
    "corrected_t",
    "draws",
    "load",
    "probe",
    "splits",
    "standardised",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SETS = ("breast_cancer", "wine", "iris", "digits", "diabetes")
LABELS = (10, 20, 50)
_FLOOR = 0.02  # of the largest scale, against features that hardly move
RESULTS = Path(__file__).parent.parent / "results"


@dataclass(frozen=True)
class Dataset:
    """One table with its targets; `stored` is the golden sidecar where there is one."""

    name: str
    x: Floats
    y: Floats
    names: list[str]
    stored: Mapping[str, Any]

    @property
    def regression(self) -> bool:
        """Whether the targets are numbers."""
        return self.name == "diabetes"

    @property
    def table(self) -> Table:
        """The features, by their names."""
        return read_table(dict(zip(self.names, self.x.T.tolist(), strict=True)))


def load(name: str, golden: Path | None) -> Dataset:
    """One of scikit-learn's sets, unscaled."""
    options = {"scaled": False} if name == "diabetes" else {}
    found = getattr(datasets, f"load_{name}")(**options)
    path = golden / f"cv_{name}.json" if golden else None
    stored = json.loads(path.read_text()) if path and path.exists() else {}
    names = [str(n) for n in found.feature_names]
    return Dataset(name, found.data.astype(float), found.target.astype(float), names, stored)


def splits(data: Dataset) -> Iterator[tuple[Ints, Ints]]:
    """(train, test) rows of each split, ascending: 5 x 2, each half is tested once."""
    rows = np.arange(len(data.y))
    for repeat in range(5):
        if data.stored:
            half = np.array([int(c) for c in data.stored["test_half"][repeat]])
        else:
            kind = KFold if data.regression else StratifiedKFold
            folds = kind(2, shuffle=True, random_state=repeat).split(rows, data.y)
            half = np.zeros(len(rows), int)
            half[list(folds)[1][1]] = 1
        for tested in (0, 1):
            yield rows[half != tested], rows[half == tested]


def draws(data: Dataset, pool: Ints, count: int, number: int, *, seed: int) -> list[Ints]:
    """`number` draws of `count` labelled rows of the pool, equal per class as far as that goes."""
    generator = np.random.default_rng((seed, count))
    found = []
    for _ in range(number):
        order = generator.permutation(pool)
        if not data.regression:
            classes, codes = np.unique(data.y[order], return_inverse=True)
            rank = np.zeros(len(order), int)
            for c in range(len(classes)):
                rank[codes == c] = np.arange((codes == c).sum())
            order = order[np.argsort(rank, kind="stable")]
        found.append(np.sort(order[:count]))
    return found


def standardised(features: Floats, pool: Ints, *, floor: float = _FLOOR) -> Floats:
    """(N, F) with the mean and the deviation of the pool, `floor` of the largest at least."""
    mean, scale = features[pool].mean(0), features[pool].std(0)
    return (features - mean) / np.maximum(scale, floor * scale.max())


def probe(data: Dataset, z: Floats, labelled: Ints, test: Ints, *, alpha: float = 10.0) -> float:
    """Accuracy or R2 of a linear model on features that were standardised on the pool."""
    model = Ridge(alpha=alpha) if data.regression else LogisticRegression(max_iter=2000)
    return float(model.fit(z[labelled], data.y[labelled]).score(z[test], data.y[test]))


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


def encoders(table: Table, pool: Ints, steps: int, seed: int) -> dict[str, UniTabE]:
    """With random weights, and pretrained on the rows of the pool."""
    rows = table.take(pool).fitted()
    random = zoo.create("unitabe-small", seed=seed).eval()
    random.preprocess.fit([{"table": rows}])
    with tempfile.TemporaryDirectory() as folder:
        options = (f"train.steps={steps}", f"train.save_every={steps}", "train.loggers=[]")
        run = pretrain_tables({"rows": rows}, Path(folder) / "run", options=options, seed=seed)
        pretrained = run.load()
    assert isinstance(random, UniTabE)
    assert isinstance(pretrained, UniTabE)
    return {"random": random, "pretrained": pretrained}


def embed(encoder: UniTabE, table: Table, pool: Ints) -> Floats:
    """(N, D) with the statistics of the pool."""
    fitted = table.like(table.take(pool).fitted().columns)
    return np.asarray(encoder.embed(fitted), np.float64)


def measure(data: Dataset, number: int, pool: Ints, test: Ints, steps: int) -> dict[str, float]:
    """All scores of one split: `features n`, n labelled rows or all of them."""
    raw = standardised(data.x / data.x[pool].std(0).clip(1e-9), pool)
    features = {"raw": raw}
    for name, encoder in encoders(data.table, pool, steps, number).items():
        z = standardised(embed(encoder, data.table, pool), pool)
        # Both blocks weigh the same in all, however many features they have.
        weight = (raw.shape[1] / z.shape[1]) ** 0.5
        features |= {name: z, f"raw + {name}": np.hstack([raw, weight * z])}
    scores = {f"{name} all": probe(data, z, pool, test) for name, z in features.items()}
    for count in LABELS:
        chosen = draws(data, pool, count, 20, seed=number)
        for name, z in features.items():
            found = [probe(data, z, labelled, test) for labelled in chosen]
            scores[f"{name} {count}"] = float(np.mean(found))
    return scores


def impute(data: Dataset, number: int, pool: Ints, test: Ints, steps: int) -> dict[str, float]:
    """RMSE of hidden cells in standardised units: ours, 5 neighbours, the mean."""
    mean, scale = data.x[pool].mean(0), data.x[pool].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    train, held = (data.x[pool] - mean) / scale, (data.x[test] - mean) / scale
    ours = Imputer(steps=steps, random_state=number).fit(_named(train, data.names))
    knn = KNNImputer(n_neighbors=5, keep_empty_features=True).fit(train)
    scores = {}
    for rate in (0.1, 0.3, 0.5):
        hidden = _hidden(data, number, rate, held.shape)
        gaps = np.where(hidden, np.nan, held)
        filled: dict[str, Callable[[], Floats]] = {
            "masked cells": lambda g=gaps: ours.transform(_named(g, data.names)),  # type: ignore[misc]
            "knn5": lambda g=gaps: knn.transform(g),  # type: ignore[misc]
            "mean": lambda g=gaps: np.zeros_like(g),  # type: ignore[misc]
        }
        for name, fill in filled.items():
            error = (fill() - held)[hidden]
            scores[f"{name} {rate}"] = float(np.sqrt(np.mean(error**2)))
    return scores


def _hidden(data: Dataset, number: int, rate: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The stored mask of a split, or one of its own seed."""
    for row in data.stored.get("imputation", {}).get("masks", []):
        if (row["repeat"], row["half"], row["rate"]) == (number // 2, number % 2, rate):
            packed = np.frombuffer(base64.b64decode(row["packbits_base64"]), np.uint8)
            return np.unpackbits(packed)[: shape[0] * shape[1]].reshape(shape).astype(bool)
    return np.random.default_rng((number, int(rate * 10))).random(shape) < rate


def _named(x: Floats, names: list[str]) -> Table:
    """Already standardised: the statistics are 0 and 1 for every row."""
    table = read_table(dict(zip(names, x.T.tolist(), strict=True)))
    return Table(table.columns, tuple(Cells(column.copy()) for column in x.T), len(x))


def show(name: str, rows: list[dict[str, float]]) -> None:
    """Means, deviations, and paired tests of pretrained against random and raw."""
    print(f"\n{name}, {len(rows)} splits")
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        print(f"  {key:<24} {values.mean():8.4f} +- {values.std():.4f}")
    pairs = [("pretrained", "random"), ("raw + pretrained", "raw")]
    for left, right in pairs:
        for count in ("10", "20", "50", "all"):
            if f"{left} {count}" in rows[0]:
                print(f"  {left} - {right}, {count}: {_paired(rows, left, right, count)}")


def _paired(rows: list[dict[str, float]], left: str, right: str, count: str) -> str:
    d = np.array([row[f"{left} {count}"] - row[f"{right} {count}"] for row in rows])
    said = f"{d.mean():+.4f}, wins {(d > 0).sum()}/{len(d)}"
    if len(d) > 2 and d.any():
        said += f", t {corrected_t(d):.2f}"
        said += f", F {combined_f(d):.2f}" if len(d) == 10 else ""
        said += f", Wilcoxon p {stats.wilcoxon(d).pvalue:.3f}"
    return said


def main() -> None:
    """Runs what is asked for, and keeps every split's scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", type=Path, help="folder of the stored splits")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--splits", type=int, default=10, help="of the 10, from the first on")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--imputation", action="store_true", help="hidden cells instead of probes")
    args = parser.parse_args()
    kind = "imputation" if args.imputation else "probes"
    path = RESULTS / f"sklearn_tables_{kind}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in args.sets:
        data = load(name, args.golden)
        work = impute if args.imputation else measure
        chosen = list(splits(data))[: args.splits]
        rows = [work(data, i, *split, args.steps) for i, split in enumerate(chosen)]
        show(name, rows)
        results[name] = {"steps": args.steps, "splits": rows}
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
