"""Pretrained rows against linear models and trees on scikit-learn's five real tables.

python -m zoo.benchmarks.tables.sklearn_tables --golden tests/golden/tabular --bar B1 --splits 4

Protocol and bars: specification `tabular`, 5. Every split is scored once and kept as a line of
JSON, so that a call that was stopped continues; a bar is judged from the lines that are there.
Baselines of breast_cancer and diabetes are the stored ones, of the other sets those that are
installed. Scores are accuracy, or R2. Nothing is fitted on a test half, with one exception: where
B5 reads new columns they have only the test rows to take their mean and deviation from.

Notation: N rows, F features, D width of the encoder.
"""

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - what makes the next work
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from zoo.benchmarks.speed.timing import RESULTS
from zoo.benchmarks.tables.sklearn_bars import BARS, GROUPS, KEPT, Row, ranks, read
from zoo.benchmarks.tables.sklearn_sets import (
    LABELS,
    Dataset,
    Split,
    draws,
    drop_order,
    hidden_cells,
    load,
    mixed_view,
    splits,
)
from zoo.modalities.tabular.encoder import UniTabE
from zoo.modalities.tabular.table import Cells, Table

import zoo
from zoo.tabular import Classifier, Imputer, Regressor, pretrain_tables
from zoo.tabular.raw import RowFeatures, beside
from zoo.tabular.sources import REAL, generated, real

__all__ = ["main", "probe"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_DRAWS = 20
_PEERS = {  # package.module:class, `Classifier` or `Regressor` follows
    "random_forest": "sklearn.ensemble:RandomForest",
    "extra_trees": "sklearn.ensemble:ExtraTrees",
    "hist_gb": "sklearn.ensemble:HistGradientBoosting",
    "xgboost": "xgboost:XGB",
    "lightgbm": "lightgbm:LGBM",
    "tabpfn": "tabpfn:TabPFN",
}


def probe(data: Dataset, z: Floats, labelled: Ints, test: Ints, *, alpha: float = 10.0) -> float:
    """Accuracy or R2 of a linear model on rows `labelled` and `test` of the features."""
    model = Ridge(alpha=alpha) if data.regression else LogisticRegression(max_iter=2000)
    return float(model.fit(z[labelled], data.y[labelled]).score(z[test], data.y[test]))


def fitted(table: Table, pool: Ints) -> Table:
    """The table with the statistics of the pool."""
    return table.like(table.take(pool).fitted().columns)


def pretrained(tables: dict[str, Table], steps: int, seed: int) -> UniTabE:
    """Trained on unlabelled rows by the card's recipe, for so many steps."""
    with tempfile.TemporaryDirectory() as folder:
        options = (f"train.steps={steps}", f"train.save_every={steps}", "train.loggers=[]")
        encoder = pretrain_tables(tables, Path(folder) / "run", options=options, seed=seed).load()
    assert isinstance(encoder, UniTabE)
    return encoder


def untrained(like: UniTabE, seed: int) -> UniTabE:
    """Random weights with the same tokenizer."""
    encoder = zoo.create("unitabe-small", seed=seed).eval()
    assert isinstance(encoder, UniTabE)
    encoder.preprocess.load_assets(like.preprocess.assets())
    return encoder


def few_labels(split: Split, features: dict[str, Floats]) -> dict[str, float]:
    """Mean score of each kind of features over draws of each number of labels."""
    scores = {}
    for count in LABELS:
        chosen = draws(split, count, _DRAWS)
        for name, z in features.items():
            found = [probe(split.data, z, labelled, split.test) for labelled in chosen]
            scores[f"{name} {count}"] = float(np.mean(found))
    return scores


def clean(split: Split, steps: int) -> dict[str, float]:
    """Frozen features against raw columns, baselines, and imputation: `what labels`."""
    data, pool = split.data, split.pool
    table = fitted(data.table, pool)
    imputer = Imputer(steps=steps, random_state=split.number).fit(table.take(pool))
    trained = imputer.encoder_
    assert isinstance(trained, UniTabE)
    features: dict[str, Floats] = {}
    kinds = {"pretrained": trained, "random": untrained(trained, split.number)}
    for name, encoder in kinds.items():
        raw, z = RowFeatures(encoder, table.take(pool)).parts(table)
        features |= {"raw": raw, name: z, f"raw + {name}": beside(raw, z)}
    full = {f"{name} all": probe(data, z, pool, split.test) for name, z in features.items()}
    scores = few_labels(split, features) | full | baselines(split, raw)
    return scores | imputation(split, imputer)


def baselines(split: Split, raw: Floats) -> dict[str, float]:
    """With all labels: the stored ones, else those that are installed."""
    data = split.data
    stored = data.stored.get("baselines", {}).get("full_data", {})
    metric = "r2" if data.regression else "acc"
    if stored:
        return {
            f"baseline {name} all": facts[metric]["values"][split.number]
            for name, facts in stored.items()
        }
    scores = {"baseline linear all": probe(data, raw, split.pool, split.test, alpha=1.0)}
    scaled = {"svm_rbf": SVR() if data.regression else SVC()}
    scaled["knn5"] = KNeighborsRegressor() if data.regression else KNeighborsClassifier()
    for name, model in scaled.items():
        model.fit(raw[split.pool], data.y[split.pool])
        scores[f"baseline {name} all"] = float(model.score(raw[split.test], data.y[split.test]))
    for name, address in _PEERS.items():
        module, _, prefix = address.partition(":")
        try:
            package = import_module(module)
        except ImportError:
            continue
        kind = getattr(package, prefix + ("Regressor" if data.regression else "Classifier"))
        model = kind(random_state=split.number).fit(data.x[split.pool], data.y[split.pool])
        scores[f"baseline {name} all"] = float(model.score(data.x[split.test], data.y[split.test]))
    return scores


def imputation(split: Split, imputer: Imputer) -> dict[str, float]:
    """RMSE of hidden cells in standardised units."""
    data = split.data
    scaler = StandardScaler().fit(data.x[split.pool])
    train, held = scaler.transform(data.x[split.pool]), scaler.transform(data.x[split.test])
    knn = KNNImputer(n_neighbors=5, keep_empty_features=True).fit(train)
    ridge = IterativeImputer(Ridge(), keep_empty_features=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ridge.fit(train)
    fills: dict[str, Callable[[Floats], Floats]] = {
        "masked cells": lambda x: scaler.transform(imputer.transform(_named(x, data, scaler))),
        "knn5": knn.transform,
        "iterative ridge": ridge.transform,
        "mean": np.nan_to_num,
    }
    scores = {}
    for rate in (0.1, 0.3, 0.5):
        hidden = hidden_cells(split, rate)
        for name, fill in fills.items():
            error = (fill(np.where(hidden, np.nan, held)) - held)[hidden]
            scores[f"rmse {name} {rate}"] = float(np.sqrt(np.mean(error**2)))
    return scores


def _named(x: Floats, data: Dataset, scaler: StandardScaler) -> dict[str, list[float]]:
    rows = scaler.inverse_transform(x)
    return dict(zip(data.names, rows.T.tolist(), strict=True))


def columns(split: Split, steps: int) -> dict[str, float]:
    """Trained without a third of the columns; tested without, with them, under wrong names.

    The estimator goes by name and leaves out what `fit` never saw; `read` says what the same head
    makes of embeddings in which the encoder read the new columns as well.
    """
    data, pool, test = split.data, split.pool, split.test
    gone = {data.names[i] for i in drop_order(data)[: len(data.names) // 3]}
    known = [name for name in data.names if name not in gone]
    table = fitted(data.table.pick(known), pool)
    encoder = pretrained({"rows": table.take(pool)}, steps, split.number)
    frame = pd.DataFrame(data.x, columns=data.names)
    kind = Regressor if data.regression else Classifier
    model = kind(encoder, raw=False, columns="flexible")
    model.fit(frame.loc[pool, known], data.y[pool])
    turned = dict(zip(known, [*known[1:], known[0]], strict=True))
    tests = {
        "without": frame[known],
        "new columns": frame,
        "names permuted": frame[known].rename(columns=turned),
    }
    scores = {name: float(model.score(x.loc[test], data.y[test])) for name, x in tests.items()}
    z = model.features_(data.table.take(test).like(table.columns))
    y = data.y[test]
    if isinstance(model, Regressor):
        y = (y - model.target_mean_) / model.target_scale_
    return scores | {"new columns read": float(model.head_.score(z, y))}


def mixed(split: Split, steps: int) -> dict[str, float]:
    """Raw + pretrained, and trees, on the numbers and on the mixed view."""
    data, pool, test = split.data, split.pool, split.test
    tree = HistGradientBoostingRegressor if data.regression else HistGradientBoostingClassifier
    scores = {}
    for name, whole in {"clean": data.table, "mixed": mixed_view(data)}.items():
        table = fitted(whole, pool)
        encoder = pretrained({"rows": table.take(pool)}, steps, split.number)
        both = RowFeatures(encoder, table.take(pool))(table)
        scores[f"ours {name}"] = probe(data, both, pool, test)
        named = [c.codes is not None for c in table.cells]
        x = np.stack([_as_codes(cells) for cells in table.cells], axis=1)
        model = tree(categorical_features=named, random_state=split.number)
        model.fit(x[pool], data.y[pool])
        scores[f"hist_gb {name}"] = float(model.score(x[test], data.y[test]))
    return scores


def _as_codes(cells: Cells) -> Floats:
    """Numbers, or a number for each string; NaN where there is none."""
    if cells.codes is not None:
        return np.where(cells.codes < 0, np.nan, cells.codes)
    assert cells.numbers is not None
    return cells.numbers


@cache
def _elsewhere(name: str, steps: int) -> UniTabE:
    """Pretrained on the other four sets and on generated tables."""
    others = real(other for other in REAL if other != name)
    return pretrained(others | generated(), steps, 0)


def transfer(split: Split, steps: int) -> dict[str, float]:
    """Weights that never saw this table, against random ones."""
    trained = _elsewhere(split.data.name, steps)
    table = fitted(split.data.table, split.pool)
    kinds = {"transferred": trained, "random": untrained(trained, split.number)}
    known = table.take(split.pool)
    features = {n: RowFeatures(e, known, raw=False)(table) for n, e in kinds.items()}
    return few_labels(split, features)


MEASURE = {"clean": clean, "columns": columns, "mixed": mixed, "transfer": transfer}


def show(name: str, rows: Sequence[Row]) -> None:
    """Mean, deviation over splits, and mean rank among what has the same number of labels."""
    print(f"\n{name}, {len(rows)} splits")
    places: dict[str, float] = {}
    for ending in ("10", "20", "50", "all"):
        places |= ranks(rows, ending)
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        rank = f"  rank {places[key]:.1f}" if key in places else ""
        print(f"  {key:<32} {values.mean():8.4f} +- {values.std():.4f}{rank}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Scores the splits that are not yet scored, then judges the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", type=Path, help="folder of the stored splits and baselines")
    parser.add_argument("--bar", nargs="+", default=[*BARS], choices=[*BARS])
    parser.add_argument("--sets", nargs="+", default=REAL, choices=REAL)
    parser.add_argument("--splits", type=int, default=10, help="of the 10, from the first on")
    parser.add_argument("--steps", type=int, default=600, help="of pretraining")
    parser.add_argument("--out", type=Path, default=RESULTS / KEPT, help="the lines of JSON")
    parser.add_argument("--judge", action="store_true", help="score nothing more")
    parser.add_argument("--quick", action="store_true", help="one split of iris, hardly trained")
    args = parser.parse_args(arguments)
    if args.quick:
        args.sets, args.splits, args.steps = ("iris",), 1, 2
    groups = dict.fromkeys(GROUPS[bar] for bar in args.bar)
    halves = {name: [*splits(load(name, args.golden))] for name in args.sets}
    wanted = [(g, s, i) for i in range(args.splits) for g in groups for s in args.sets]
    for group, name, i in wanted if not args.judge else []:
        if i not in read(args.out, args.steps).get(group, {}).get(name, {}):
            scores = MEASURE[group](halves[name][i], args.steps)
            facts = {"group": group, "set": name, "split": i, "steps": args.steps}
            with args.out.open("a") as file:
                file.write(json.dumps(facts | {"scores": scores}) + "\n")
    found = read(args.out, args.steps)
    scored = {
        group: {name: [*found[group][name].values()] for name in args.sets if name in found[group]}
        for group in groups
        if group in found
    }
    for group, sets in scored.items():
        for name, rows in sets.items():
            show(f"{group}: {name}", rows)
    for bar in args.bar:
        if GROUPS[bar] in scored:
            print(f"\n{bar}: {(BARS[bar].__doc__ or '')[4:]}")
            print("\n".join(f"  {line}" for line in BARS[bar](scored)))


if __name__ == "__main__":
    main()
