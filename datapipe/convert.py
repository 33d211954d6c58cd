"""Streams URL lists of CSV, TSV, JSON, JSON lines and plain text into Parquet."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.promotion import Extremes
from datapipe.tsv import TsvReader
from infra.errors import InputError, first_line

TEXT_FORMATS = ("csv", "tsv", "json", "jsonl", "txt")
BATCH_ROWS = 10_000  # rows held at once, and a row group of the result
INT64_MAX = 2**63 - 1
WHOLE = pa.int64()
# ValueError: JSONDecodeError is one, and a number of more digits than Python reads is another.
JSON_ERRORS = (ValueError, RecursionError)

Row = dict[str, Any]
OpenFile = Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Survey:
    """The columns of a list's rows, how many rows there are, and the extremes of the columns with whole numbers."""

    schema: pa.Schema
    rows: int
    extremes: Mapping[str, Extremes]


def convert_to_parquet(name: str, open_file: OpenFile, target: Path, url_col: str) -> None:
    """Writes the rows of the list called `name` to `target`. The same file gives the same bytes.

    CSV and text have columns of strings. JSON's may be whole numbers, numbers or truths; whatever is none of these
    in all rows becomes a string, and a column without any value is of the type null. The file is read twice: first
    for its columns. Raises InputError with the line.
    """
    schema = survey(read_list(name, open_file, url_col)).schema
    rows = read_list(name, open_file, url_col)
    with pq.ParquetWriter(target, schema) as writer:
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            columns = [
                pa.array([_as(field.type, row.get(field.name)) for row in batch], field.type) for field in schema
            ]
            writer.write_table(pa.table(columns, schema=schema))


def read_list(name: str, open_file: OpenFile, url_col: str) -> Iterator[Row]:
    """The rows of a list that is not Parquet, one after another. Raises InputError that names the line."""
    try:
        with contextlib.closing(open_file()) as source, _as_text(name, source) as stream:
            yield from _READERS[_kind(name)](stream, name, url_col)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _unreadable(name, "", error) from error


def _kind(name: str) -> str:
    return name.lower().removesuffix(".gz").rpartition(".")[2]


def _unreadable(path: str, place: str, error: Exception) -> InputError:
    reason = first_line(error)
    return InputError(
        f"build.input: {path}{place} cannot be read as {_kind(path)} ({reason}).",
        "A list is whole, in UTF-8, and of the format that its ending says.",
        "Correct that place, or give the file its true ending.",
    )


def _as_text(name: str, source: BinaryIO) -> IO[str]:
    plain = gzip.GzipFile(fileobj=source) if name.lower().endswith(".gz") else source
    return io.TextIOWrapper(plain, encoding="utf-8-sig", newline="")


class _Reader(Protocol):
    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...


def _csv_rows(stream: IO[str], path: str, _url_col: str) -> Iterator[Row]:
    return _table_rows(csv.reader(stream, strict=True), path)


def _tsv_rows(stream: IO[str], path: str, url_col: str) -> Iterator[Row]:
    return _table_rows(TsvReader(stream, url_col), path)


def _table_rows(reader: _Reader, path: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    rows = iter(reader)
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise InputError(
                f"build.input: {path} names a column twice: {', '.join(header)}.",
                "Columns have names of their own.",
                "Rename one of them.",
            )
        for fields in rows:
            if len(fields) > len(header):
                raise InputError(
                    f"build.input: {path}, line {reader.line_num} has {len(fields)} fields.",
                    f"The header names {len(header)} columns.",
                    "Quote the field that holds the separator.",
                )
            if fields:
                yield dict(itertools.zip_longest(header, fields))
    except csv.Error as error:
        raise _unreadable(path, f", line {reader.line_num}", error) from error


def _json_rows(stream: IO[str], path: str, _url_col: str) -> Iterator[Row]:
    try:
        rows = json.load(stream)
    except JSON_ERRORS as error:
        raise _unreadable(path, "", error) from error
    if not isinstance(rows, list):
        raise InputError(
            f"build.input: {path} holds a JSON {type(rows).__name__}.",
            "A .json list is one array of objects; one object a line is .jsonl.",
            "Rename or convert the file.",
        )
    for number, row in enumerate(rows, 1):
        yield _as_object(row, path, f"element {number}")


def _json_lines(stream: IO[str], path: str, _url_col: str) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if not line.isspace():
            try:
                row = json.loads(line)
            except JSON_ERRORS as error:
                raise _unreadable(path, f", line {number},", error) from error
            yield _as_object(row, path, f"line {number}")


def _as_object(row: object, path: str, place: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(
            f"build.input: {path}, {place} is not an object.", "Each row is a JSON object.", "Correct that row."
        )
    return row


def _text_rows(stream: IO[str], _path: str, url_col: str) -> Iterator[Row]:
    for line in stream:
        if not line.isspace():
            yield {url_col: line.rstrip("\r\n")}


_READERS: dict[str, Callable[[IO[str], str, str], Iterator[Row]]] = {
    "csv": _csv_rows,
    "tsv": _tsv_rows,
    "json": _json_rows,
    "jsonl": _json_lines,
    "txt": _text_rows,
}


def survey(rows: Iterable[Row]) -> Survey:
    """The columns in the order in which they first appear, each of the narrowest type that all its values have."""
    kinds: dict[str, set[pa.DataType]] = {}
    extremes: dict[str, Extremes] = {}
    count = 0
    for row in rows:
        count += 1
        for name, value in row.items():
            kind = _type_of(value)
            kinds.setdefault(name, set()).add(kind)
            if kind is WHOLE:
                least, greatest = extremes.get(name, (value, value))
                extremes[name] = min(least, value), max(greatest, value)
    fields = [pa.field(_clean(name), _common(types - {pa.null()})) for name, types in kinds.items()]
    return Survey(pa.schema(fields), count, {_clean(name): found for name, found in extremes.items()})


def _type_of(value: object) -> pa.DataType:
    match value:
        case None:
            return pa.null()
        case bool():
            return pa.bool_()
        case int() if abs(value) <= INT64_MAX:
            return WHOLE
        case float():
            return pa.float64()
    return pa.string()


def _common(types: set[pa.DataType]) -> pa.DataType:
    if len(types) < 2:
        return next(iter(types), pa.null())
    return pa.float64() if types == {pa.int64(), pa.float64()} else pa.string()


def _as(kind: pa.DataType, value: Any) -> Any:
    if value is None:
        return None
    if kind == pa.string():
        return _clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return float(value) if kind == pa.float64() else value


def _clean(text: str) -> str:
    """JSON can hold halves of surrogate pairs, which no UTF-8 has."""
    return text.encode("utf-8", "replace").decode("utf-8")
