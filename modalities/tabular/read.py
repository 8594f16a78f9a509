"""Anything that holds a table -> `Table`: files, data frames, Arrow, arrays.

pandas, polars and Arrow come through one door (`__arrow_c_stream__`); arrays need no library. The
rules for cells: None, NaN, NaT, "" and blanks are missing, the text "nan" is not; an infinity is an
error; whole numbers above 2**53 are kept exactly, as text; a column of mixed Python objects keeps
numbers as numbers and everything else as text, with one warning.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from zoo.modalities.tabular.table import Cells, Column, Kind, Table

from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["EXACT", "import_arrow", "is_gap", "objects", "read_table", "strings"]

Infinities = Literal["error", "missing"]
_DECIMAL_COMMA = re.compile(r" *[-+]?\d+,\d+ *")
EXACT = 1 << 53  # the largest range of whole numbers that a float64 holds exactly


def read_table(
    source: object,
    *,
    kinds: Mapping[str, Kind] | None = None,
    infinities: Infinities = "error",
) -> Table:
    """A table with inferred kinds, its statistics fitted on its own rows.

    Args:
        source: a CSV, TSV, Parquet or Arrow file, a pandas or polars frame, an Arrow table, a
            dict of columns, a 2-D array (columns x0, x1, ...), or a `Table`.
        kinds: kinds of columns that inference gets wrong, by name.
        infinities: "missing" takes them for missing cells.

    Raises:
        DataError: no table, or one with infinities, duplicate or mixed names; names the columns.
        UsageError: pyarrow is needed and missing, or `kinds` names a column that is not there.
    """
    if isinstance(source, Table):
        return source
    if hasattr(source, "toarray"):
        raise DataError("a sparse matrix is no table here: pass its .toarray()")
    names: Sequence[str]
    if isinstance(source, np.ndarray):
        names, columns = _from_array(source)
    else:
        names, columns = _from_arrow(source)
    _check_unique(names)
    table = _table(names, columns, kinds or {})
    return _checked(table, infinities).fitted()


def _table(names: Sequence[str], columns: Sequence[Cells], kinds: Mapping[str, Kind]) -> Table:
    if unknown := set(kinds) - set(names):
        raise UsageError(f"kinds for columns that are not there: {sorted(unknown)}")
    rows = len(columns[0].missing) if columns else 0
    pairs = [
        _with_kind(name, cells, kinds.get(name)) for name, cells in zip(names, columns, strict=True)
    ]
    return Table(tuple(c for c, _ in pairs), tuple(cells for _, cells in pairs), rows)


def _with_kind(name: str, cells: Cells, kind: Kind | None) -> tuple[Column, Cells]:
    if kind is None:
        _warn_of_commas(name, cells)
        return Column(name=name, kind=_infer(cells)), cells
    if kind == "number" and cells.codes is not None:
        values = cells.values()
        exact = [v for v in values if isinstance(v, str)]
        numbers = np.array([_number(value) for value in values])
        if any(abs(_number(v)) > EXACT for v in exact):
            _warn(f"column {name!r}: whole numbers above 2**53 are rounded when used as numbers")
        return Column(name=name, kind=kind), Cells(numbers)
    if kind != "number" and cells.numbers is not None:
        texts = [_plain(value) for value in cells.values()]
        return Column(name=name, kind=kind), strings(texts)
    return Column(name=name, kind=kind), cells


def _number(value: float | str | None) -> float:
    try:
        return float("nan") if value is None else float(value)
    except ValueError:
        return float("nan")


def _plain(value: float | str | None) -> str | None:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else _text(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _warn_of_commas(name: str, cells: Cells) -> None:
    """Numbers that were read as text would be that many categories, without a word."""
    if cells.levels and all(_DECIMAL_COMMA.fullmatch(level) for level in cells.levels):
        _warn(
            f"column {name!r}: {cells.levels[0]!r} is text, not a number; if the comma is a "
            "decimal mark read the file with pandas.read_csv(path, decimal=',')"
        )


def _infer(cells: Cells) -> Kind:
    if cells.codes is None:
        return "number"
    if set(cells.levels) <= {"false", "true"} and cells.levels and cells.numbers is None:
        return "boolean"
    words = np.mean([len(level.split()) for level in cells.levels]) if cells.levels else 0.0
    is_text = words >= 3 and len(cells.levels) > 0.01 * len(cells.codes)
    return "text" if is_text else "category"


def _checked(table: Table, infinities: Infinities) -> Table:
    """Without infinities; columns without a single value are named once."""
    bad: dict[str, int] = {}
    cells = list(table.cells)
    for i, (name, column) in enumerate(zip(table.names, table.cells, strict=True)):
        if column.numbers is not None and (count := int(np.isinf(column.numbers).sum())):
            bad[name] = count
            finite = np.where(np.isinf(column.numbers), np.nan, column.numbers)
            cells[i] = replace(column, numbers=finite)
    if bad and infinities == "error":
        said = ", ".join(f"{name!r} ({count})" for name, count in bad.items())
        raise DataError(
            f"infinity in columns {said}: clean them, or take them for missing cells with "
            "read_table(rows, infinities='missing')"
        )
    pairs = zip(table.names, cells, strict=True)
    empty = [name for name, column in pairs if table.rows and column.missing.all()]
    if empty:
        _warn(f"columns without a single value, taken as missing: {empty}")
    return Table(table.columns, tuple(cells), table.rows)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


def _check_unique(names: Sequence[str]) -> None:
    seen: set[str] = set()
    twice = sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]
    if twice:
        raise DataError(f"column names that stand twice: {twice}; rename them")


def strings(values: Iterable[str | None]) -> Cells:
    """Cells of strings; blank ones are missing."""
    levels: dict[str, int] = {}
    codes = [
        -1 if value is None or not value.strip() else levels.setdefault(value, len(levels))
        for value in values
    ]
    return Cells(None, np.array(codes, np.int32), tuple(levels))


def objects(values: Sequence[object], name: str = "") -> Cells:
    """Cells of Python objects: numbers stay numbers, everything else becomes text."""
    numbers = np.full(len(values), np.nan)
    texts: list[str | None] = [None] * len(values)
    for i, value in enumerate(values):
        if isinstance(value, bool | np.bool_):
            texts[i] = str(value).lower()
        elif isinstance(value, int | np.integer) and abs(int(value)) > EXACT:
            texts[i] = str(int(value))
        elif isinstance(value, int | float | np.integer | np.floating):
            numbers[i] = float(value)
        elif not is_gap(value):
            texts[i] = str(value)
    found = strings(texts)
    if not found.levels:
        return Cells(numbers, whole=not any(isinstance(v, float | np.floating) for v in values))
    if np.isnan(numbers).all():
        return found
    _warn(f"column {name!r} mixes numbers and text: numbers stay numbers, the rest is text")
    return Cells(numbers, found.codes, found.levels)


def is_gap(value: object) -> bool:
    """Whether a Python object stands for nothing: None, NaN, pandas' NaT or NA; never a text."""
    if value is None or isinstance(value, str):
        return value is None
    return str(value) in ("NaT", "<NA>") or value != value


def _from_array(array: NDArray[np.generic]) -> tuple[list[str], list[Cells]]:
    if array.ndim != 2:
        raise DataError(f"a table is a 2-D array, got {array.ndim} dimensions; reshape it")
    if np.iscomplexobj(array):
        raise DataError("Complex data not supported: pass real and imaginary parts as columns")
    names = [f"x{i}" for i in range(array.shape[1])]
    if array.dtype.kind in "fiu" and not _is_large(array):
        whole = array.dtype.kind != "f"
        return names, [Cells(column, whole=whole) for column in array.T.astype(np.float64)]
    return names, [objects(array[:, i].tolist(), names[i]) for i in range(array.shape[1])]


def _is_large(array: NDArray[np.generic]) -> bool:
    if array.dtype.kind not in "iu" or not array.size:
        return False
    return bool(int(array.max()) > EXACT or int(array.min()) < -EXACT)


def import_arrow() -> "ModuleType":
    """The pyarrow package.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError(
            "tables other than arrays need pyarrow: pip install 'zoo[tabular]'"
        ) from None
    module: ModuleType = pyarrow
    return module


def _from_arrow(source: object) -> tuple[list[str], list[Cells]]:
    import_arrow()
    from zoo.modalities.tabular.arrow import cells_of, open_arrow

    if isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    table = open_arrow(source)
    names, columns = [], []
    for name in table.column_names:
        for full_name, cells in cells_of(name, table.column(name)):
            names.append(full_name)
            columns.append(cells)
    return names, columns
