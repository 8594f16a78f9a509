"""Arrow tables: opening them from files and data frames, and their columns as cells.

A date becomes numbers of its own: year, month, day, weekday, seconds of the day, in UTC where it
has a time zone.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from zoo.modalities.bounds import decoding
from zoo.modalities.tabular.read import EXACT, objects, strings
from zoo.modalities.tabular.table import Cells, Table

from zoo.errors import DataError, UsageError

__all__ = ["cells_of", "open_arrow", "to_arrow"]

_PARTS = ("year", "month", "day", "day_of_week")


def open_arrow(source: object) -> pa.Table:
    """The Arrow table of a file, a data frame, or a dict of columns.

    Raises:
        DataError: it is none, or its names are not all text or not unique.
    """
    if isinstance(source, str | Path):
        return _open_file(Path(source))
    names = [*getattr(source, "columns", ())] if not isinstance(source, pa.Table) else []
    if len({type(name) for name in names}) > 1:
        raise DataError(
            "column names of several types: make them all text with "
            "frame.columns = frame.columns.map(str)"
        )
    if len(set(names)) < len(names):
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        raise DataError(f"column names that stand twice: {twice}; rename them")
    if isinstance(source, dict):
        return pa.table({str(n): _array(list(values), str(n)) for n, values in source.items()})
    if hasattr(source, "iloc"):  # pandas: its index is no column, its object columns may be mixed
        named = names != [*range(len(names))]  # pandas counts columns that have no names
        given = [str(name) if named else f"x{name}" for name in names]
        columns = [_pandas_column(source, name) for name in names]
        return pa.Table.from_arrays(columns, names=given)
    if hasattr(source, "__arrow_c_stream__"):
        return pa.table(source)
    raise DataError(f"expected a table, got {type(source).__name__}")


def _pandas_column(frame: object, name: object) -> pa.Array:
    series = frame[name]  # type: ignore[index]
    try:
        return pa.Array.from_pandas(series)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return _stored(objects(series.tolist(), str(name)))


def _array(values: list[object], name: str) -> pa.Array:
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return _stored(objects(values, name))


def to_arrow(table: Table) -> pa.Table:
    """Every column as it is stored: numbers as float64, strings as a dictionary."""
    columns = [_stored(cells) for cells in table.cells]
    return pa.Table.from_arrays(columns, names=table.names)


def _stored(cells: Cells) -> pa.Array:
    """A mixed column is a struct of the number and the text of each cell."""
    if cells.codes is None and cells.whole and cells.numbers is not None:
        return pa.array(np.nan_to_num(cells.numbers).astype(np.int64), mask=cells.missing)
    if cells.codes is None:
        return pa.array(cells.numbers)
    text = pa.DictionaryArray.from_arrays(
        pa.array(cells.codes, mask=cells.codes < 0), pa.array(cells.levels, pa.string())
    )
    if cells.numbers is None:
        return text
    return pa.StructArray.from_arrays([pa.array(cells.numbers), text], ["number", "text"])


def _open_file(path: Path) -> pa.Table:
    if path.suffix == ".csv":
        _check_commas(path)
    with decoding(f"{path}: not a table of its kind"):
        if path.suffix in (".csv", ".tsv"):
            from pyarrow import csv

            return csv.read_csv(
                path,
                parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","),
                convert_options=csv.ConvertOptions(null_values=[""], strings_can_be_null=True),
            )
        if path.suffix == ".parquet":
            from pyarrow import parquet

            return parquet.ParquetFile(path).read()
        if path.suffix in (".arrow", ".feather"):
            from pyarrow import feather

            return feather.read_table(path)
    raise UsageError(f"{path}: no table that zoo reads (csv, tsv, parquet, arrow, feather)")


def _check_commas(path: Path) -> None:
    """What spreadsheets write where the comma is the decimal mark, which is no CSV."""
    with decoding(f"{path}: cannot read it"), path.open(encoding="utf-8", errors="replace") as file:
        header = file.readline(1 << 20)
    if ";" in header and "," not in header:
        raise DataError(
            f"{path}: its cells are separated by semicolons; read it with "
            "pandas.read_csv(path, sep=';', decimal=',') and give the frame"
        )


def cells_of(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, Cells]]:
    """The cells of one Arrow column; several columns where it holds dates.

    Raises:
        DataError: nested values.
    """
    kind = column.type
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        yield from _dates(name, column)
    else:
        yield name, _cells(name, column)


def _cells(name: str, column: pa.ChunkedArray) -> Cells:
    kind = column.type
    if pa.types.is_floating(kind):
        return Cells(_floats(column))
    if pa.types.is_null(kind):
        return Cells(np.full(len(column), np.nan))
    if pa.types.is_dictionary(kind) and _is_text(kind.value_type):
        return _dictionary(column.combine_chunks())
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_boolean(kind) or _is_text(kind):
        text = pc.utf8_lower(column.cast(pa.string())) if pa.types.is_boolean(kind) else column
        return _dictionary(pc.dictionary_encode(text.cast(pa.large_string())).combine_chunks())
    if pa.types.is_struct(kind) and [field.name for field in kind] == ["number", "text"]:
        numbers, text = column.combine_chunks().flatten()
        found = _dictionary(text)
        return Cells(_floats(numbers), found.codes, found.levels)
    if pa.types.is_integer(kind):
        return _integers(column)
    if pa.types.is_decimal(kind):
        return Cells(_floats(column))
    if pa.types.is_duration(kind):
        return Cells(_floats(column.cast(pa.int64())))
    raise DataError(f"column {name!r} holds {kind}: flatten it into columns of plain values")


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _integers(column: pa.ChunkedArray) -> Cells:
    """As numbers where float64 holds them all exactly, else as text."""
    if not column.null_count:  # numpy's conversion is faster than a checked cast
        whole = column.to_numpy()
        numbers = whole.astype(np.float64)
        if not numbers.size or np.abs(numbers).max() < EXACT:
            return Cells(numbers, whole=True)
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid:
        return strings(column.cast(pa.string()).to_pylist())
    return Cells(_floats(numbers), whole=True)


def _floats(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    if column.type != pa.float64():
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _dictionary(array: pa.DictionaryArray) -> Cells:
    """Levels that are blank, or null, or stand twice become what they mean."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    array.dictionary.validate(full=True)
    levels = array.dictionary.to_numpy(zero_copy_only=False).tolist()  # to_pylist is slower
    codes = array.indices
    if codes.null_count:
        codes = (
            codes.fill_null(-1)
            if pa.types.is_signed_integer(codes.type)
            else codes.cast(pa.int64()).fill_null(-1)
        )
    found = codes.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    if found.size and not -1 <= found.min() <= found.max() < len(levels):
        raise DataError("a code of a category lies outside of its levels")
    distinct = not array.dictionary.null_count and len(set(levels)) == len(levels)
    if distinct and all(map(str.strip, levels)):
        return Cells(None, found, tuple(levels))
    places = strings(levels)
    assert places.codes is not None
    return Cells(None, np.append(places.codes, np.int32(-1))[found], places.levels)


def _dates(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, Cells]]:
    kind = column.type
    if pa.types.is_time(kind):
        yield f"{name} seconds", Cells(_seconds(column))
        return
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))
    for part in _PARTS:
        numbers = _floats(getattr(pc, part)(column))
        yield f"{name} {part.replace('day_of_week', 'weekday')}", Cells(numbers)
    if pa.types.is_timestamp(kind):
        clock = column.cast(pa.timestamp("us")).cast(pa.time64("us"))
        yield f"{name} seconds", Cells(_seconds(clock))


def _seconds(column: pa.ChunkedArray) -> np.ndarray:
    micros = column.cast(pa.time64("us")).cast(pa.int64())
    return _floats(micros) / 1e6
