"""Tables of samples, read in any order: CSV, JSON lines and Parquet.

A table is scanned once for the place of every row; later any rows are read by their places, in
any order. Tables are small and can be pickled.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

__all__ = ["SUFFIXES", "Csv", "JsonLines", "Parquet", "Row", "Table", "open_table"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
MAX_LINE = 1 << 30  # bytes
_BATCH = 1024  # Parquet rows held at a time

Row = Mapping[str, object]


class _Lines:
    """Lines of a file as text, and how far it was read."""

    def __init__(self, file: BinaryIO, position: int = 0) -> None:
        self.file, self.position = file, position
        file.seek(position)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self.file.readline(MAX_LINE)
        if not line:
            raise StopIteration
        mark = 3 if self.position == 0 and line.startswith(b"\xef\xbb\xbf") else 0
        self.position += len(line)
        # What is not UTF-8 is found when the text is written: here it would end the whole table.
        return line[mark:].decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Csv:
    """Comma- or tab-separated text with a header; places are byte offsets."""

    path: Path
    columns: tuple[str, ...]
    delimiter: str

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[int, Row | DataError]]:
        """Every row with its place, or what is wrong with it."""
        with self.path.open("rb") as file:
            lines = _Lines(file)
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
            next(reader)
            while True:
                place = lines.position
                try:
                    cells = next(reader)
                    if cells:
                        yield place, self._row(cells)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield place, DataError(f"not valid CSV ({error})")
                except DataError as error:
                    yield place, error

    def read(self, places: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Row]:
        """The rows at these places, in this order."""
        with self.path.open("rb") as file:
            for place in places.tolist():
                reader = csv.reader(_Lines(file, place), delimiter=self.delimiter, strict=True)
                yield self._row(next(reader))

    def _row(self, cells: list[str]) -> Row:
        if len(cells) != len(self.columns):
            raise DataError(f"{len(cells)} cells instead of {len(self.columns)}")
        return dict(zip(self.columns, cells, strict=True))


def _open_csv(path: Path, delimiter: str) -> Csv:
    with path.open("rb") as file:
        try:
            columns = next(csv.reader(_Lines(file), delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise DataError(f"{path}: not valid CSV ({error})") from None
    if len(columns) == 1 and ";" in columns[0]:
        raise UsageError(
            f"{path}: its cells are separated by semicolons; save it with commas, or as .tsv with "
            "tabs"
        )
    if not columns or len(set(columns)) < len(columns):
        raise UsageError(f"{path}: the first line must name the columns, each once")
    return Csv(path, tuple(columns), delimiter)


@dataclass(frozen=True, slots=True)
class JsonLines:
    """One JSON object a line; places are byte offsets. Columns are those of the first row."""

    path: Path
    columns: tuple[str, ...]

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[int, Row | DataError]]:
        """Every row with its place, or what is wrong with it."""
        with self.path.open("rb") as file:
            lines = _Lines(file)
            place = 0
            for line in lines:
                if line.strip():
                    try:
                        yield place, _json_row(line)
                    except DataError as error:
                        yield place, error
                place = lines.position

    def read(self, places: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Row]:
        """The rows at these places, in this order."""
        with self.path.open("rb") as file:
            for place in places.tolist():
                yield _json_row(next(_Lines(file, place)))


def _open_lines(path: Path) -> JsonLines:
    for _, row in JsonLines(path, ()).scan(()):
        if not isinstance(row, DataError):
            return JsonLines(path, tuple(row))
    raise UsageError(f"{path}: no JSON object in it")


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError("not a JSON object")
    return row


@dataclass(frozen=True, slots=True)
class Parquet:
    """A Parquet file; places are numbers of rows. Only the columns in use are read."""

    path: Path
    columns: tuple[str, ...]

    def scan(self, columns: Sequence[str]) -> Iterator[tuple[int, Row | DataError]]:
        """Every row with its place."""
        with _parquet(self.path) as file:
            every = np.arange(file.metadata.num_rows)
            yield from zip(every.tolist(), self._pick(file, every, columns), strict=True)

    def read(self, places: NDArray[np.int64], columns: Sequence[str]) -> Iterator[Row]:
        """The rows at these places, in this order; unsorted ones are gathered first."""
        ascending = np.sort(places)
        with _parquet(self.path) as file:
            rows = self._pick(file, ascending, columns)
            if np.array_equal(places, ascending):
                yield from rows
            else:
                found = dict(zip(ascending.tolist(), rows, strict=True))
                yield from (found[place] for place in places.tolist())

    def _pick(
        self, file: "pq.ParquetFile", places: NDArray[np.int64], columns: Sequence[str]
    ) -> Iterator[Row]:
        """Rows at ascending places; row groups without any of them are not read."""
        import pyarrow as pa

        begin = 0
        try:
            for group in range(file.metadata.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                if np.searchsorted(places, begin) < np.searchsorted(places, end):
                    for batch in file.iter_batches(
                        _BATCH, row_groups=[group], columns=list(columns), use_threads=False
                    ):
                        first, last = np.searchsorted(places, [begin, begin + len(batch)])
                        yield from batch.take(pa.array(places[first:last] - begin)).to_pylist()
                        begin += len(batch)
                begin = end
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: damaged Parquet ({error})") from None


def _open_parquet(path: Path) -> Parquet:
    with _parquet(path) as file:
        return Parquet(path, tuple(file.schema_arrow.names))


def _parquet(path: Path) -> "pq.ParquetFile":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow: pip install 'zoo[parquet]'") from None
    try:
        return pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from None


Table = Csv | JsonLines | Parquet


def open_table(path: Path) -> Table:
    """The table in a file, by its suffix.

    Raises:
        UsageError: an unknown suffix, no columns, or a missing package.
        DataError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".csv", ".tsv"):
            return _open_csv(path, "\t" if suffix == ".tsv" else ",")
        if suffix in (".jsonl", ".ndjson"):
            return _open_lines(path)
        if suffix == ".parquet":
            return _open_parquet(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror or error})", code="IO") from None
    raise UsageError(f"{path}: a table is one of {', '.join(SUFFIXES)}")
