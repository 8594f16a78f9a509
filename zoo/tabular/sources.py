"""Tables that are there without a download: scikit-learn's five real ones, and generated ones.

The generated ones have a few hidden factors, noise, and names without a meaning.

Notation: N rows, F features.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from zoo.modalities.tabular.read import read_table
from zoo.modalities.tabular.table import Table
from zoo.tabular.shards import write_tables

__all__ = ["REAL", "generated", "labelled", "real", "write_sources"]

Floats = NDArray[np.float64]
REAL = ("breast_cancer", "wine", "iris", "digits", "diabetes")
_GENERATED = 24


def labelled(name: str) -> tuple[Table, Floats]:
    """One of the real tables, its columns unscaled, and its targets (N,)."""
    options = {"scaled": False} if name == "diabetes" else {}
    found = getattr(datasets, f"load_{name}")(**options)
    columns = found.data.astype(float).T.tolist()
    table = read_table(dict(zip(map(str, found.feature_names), columns, strict=True)))
    return table, found.target.astype(float)


def real(names: Iterable[str] = REAL) -> dict[str, Table]:
    """Real tables without their targets."""
    return {name: labelled(name)[0] for name in names}


def generated(count: int = _GENERATED, *, rows: int = 256) -> dict[str, Table]:
    """As many generated tables of 4 to 32 columns; the same at every call."""
    generator = np.random.default_rng(0)
    tables = {}
    for i in range(count):
        width = int(generator.integers(4, 33))
        factors = int(generator.integers(1, min(6, width) + 1))
        loadings = generator.normal(size=(factors, width)) / factors**0.5
        noise = generator.uniform(0.2, 1.0) * generator.normal(size=(rows, width))
        x = generator.normal(size=(rows, factors)) @ loadings + noise
        letters = generator.integers(ord("a"), ord("z") + 1, (width, 4))
        names = dict.fromkeys("".join(map(chr, word)) for word in letters.tolist())
        tables[f"generated {i}"] = read_table(dict(zip(names, x.T.tolist(), strict=False)))
    return tables


def write_sources(folder: Path) -> None:
    """Shards of all of them: what the tag `unitabe-small.demo` is trained on."""
    write_tables(folder, real() | generated())
