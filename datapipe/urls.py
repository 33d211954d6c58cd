"""Finds the files of a URL list, and turns those that are not Parquet into Parquet by streaming."""

import csv
import difflib
import glob
import gzip
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.plan import InputFile
from infra.errors import ConfigError, InputError
from infra.storage import LocalWriter, sha256_of_file

CONVERTED_FOLDER = "_input"
WHOLE_HASH_BYTES = 256 << 20
CONVERT_ROWS = 10_000  # rows held at once while converting
FORMATS = ("parquet", "csv", "tsv", "json", "jsonl", "txt")
# Columns that a build writes itself; one of the list with such a name would be lost.
OWN_COLUMNS = frozenset(
    {
        "key",
        "url",
        "caption",
        "status",
        "error_message",
        "width",
        "height",
        "original_width",
        "original_height",
        "sha256",
        "exif",
        "image_offset",
        "image_length",
    }
)


def find_input_files(pattern: str) -> list[Path]:
    """The list's files, sorted: a file, all files of a folder with a known ending, or a glob.

    Raises InputError when there is none or one has an unknown ending.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if entry.is_file() and _format_of(entry))
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if not found:
        raise InputError(
            f"build.input: {pattern} names no file.",
            f"Allowed are a file, a folder or a glob of {', '.join(FORMATS)} files (also .gz).",
            "Check the path; a relative one is meant from where the command runs.",
        )
    for file in found:
        if not _format_of(file):
            raise InputError(
                f"build.input: {file} has an ending that is not known.",
                f"Allowed are {', '.join(FORMATS)}, also with .gz.",
                "Rename or convert the file.",
            )
    return found


def open_url_list(config: BuildConfig) -> list[InputFile]:
    """The list as Parquet files with their row counts; other formats are converted below the output first.

    Raises InputError for unreadable files and ConfigError for missing columns.
    """
    files = [_as_parquet(path, config) for path in find_input_files(config.input)]
    opened = [_open(path, config) for path in files]
    if not any(file.rows for file in opened):
        raise InputError(
            f"build.input: {config.input} holds no rows.", "A list has at least one URL.", "Check the file."
        )
    return opened


def check_columns(names: list[str], where: str, config: BuildConfig) -> None:
    """Raises ConfigError when a configured column is missing or a further one has a name of ours."""
    wanted = [("url_col", config.url_col), ("caption_col", config.caption_col)]
    wanted += [("save_additional_columns", name) for name in config.save_additional_columns or []]
    for key, name in wanted:
        if name is not None and name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            raise ConfigError(
                f"build.{key}: {where} has no column {name!r}.",
                f"Its columns are: {', '.join(names)}.",
                f"Set build.{key}={near[0] if near else 'one of them'}"
                + (", or caption_col=null for a list without captions." if key == "caption_col" else "."),
            )
    for name in additional_columns(names, config):
        if name in OWN_COLUMNS:
            raise ConfigError(
                f"build.save_additional_columns: {where} has a column {name!r} besides the one for it.",
                f"The dataset has its own columns {', '.join(sorted(OWN_COLUMNS))}.",
                "Rename it, or list the columns to keep in save_additional_columns.",
            )


def additional_columns(names: Iterable[str], config: BuildConfig) -> list[str]:
    """The list's further columns that go into the dataset, in their order."""
    kept = config.save_additional_columns
    chosen = {config.url_col, config.caption_col}
    return [name for name in names if name not in chosen and (kept is None or name in kept)]


def check_input(config: BuildConfig) -> None:
    """Finds missing files and columns without converting or writing anything. Raises UserError."""
    for path in find_input_files(config.input):
        if _format_of(path) == "parquet":
            _open(path, config)
        else:
            first = next(_rows(path, config), None)
            if first is not None:
                check_columns(list(first), str(path), config)


def input_identity(config: BuildConfig) -> str:
    """A hash of the list's content that does not depend on where it lies.

    Of large Parquet files only the footer is read, which has every column chunk's size, place and extremes.
    """
    digest = hashlib.sha256()
    for path in find_input_files(config.input):
        size = path.stat().st_size
        digest.update(f"{_format_of(path)} {size} ".encode())
        if _format_of(path) == "parquet" and size > WHOLE_HASH_BYTES:
            digest.update(_footer(path))
        else:
            digest.update(sha256_of_file(path).encode())
    return digest.hexdigest()


def _footer(path: Path) -> bytes:
    """The metadata at the end of a Parquet file; before the magic stands its length, little-endian."""
    with path.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, os.SEEK_END)
        return stream.read(length)


def _format_of(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    ending = name.rpartition(".")[2]
    return ending if ending in FORMATS else None


def _open(path: Path, config: BuildConfig) -> InputFile:
    try:
        metadata = pq.read_metadata(path)
        names = metadata.schema.to_arrow_schema().names
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"build.input: {path} cannot be read as Parquet ({_first_line(error)}).",
            "A list's Parquet file is whole and readable.",
            "Write it anew, or give it its true ending.",
        ) from error
    check_columns(names, str(path), config)
    return InputFile(str(path), metadata.num_rows)


def _as_parquet(path: Path, config: BuildConfig) -> Path:
    """The file itself if it is Parquet; else its conversion, made now unless a former start made it."""
    if _format_of(path) == "parquet":
        return path
    identity = hashlib.sha256(f"{sha256_of_file(path)} {config.url_col}".encode()).hexdigest()[:16]
    target = Path(config.output).expanduser() / CONVERTED_FOLDER / f"{path.name}.{identity}.parquet"
    if not target.exists():
        with LocalWriter(target) as temporary:
            _convert(_rows(path, config), temporary)
    return target


def _convert(rows: Iterator[dict[str, Any]], target: Path) -> None:
    """Streams the rows into Parquet; all columns are text, except those of JSON, which are told from the first rows."""
    first = list(itertools.islice(rows, CONVERT_ROWS))
    schema = pa.Table.from_pylist(first).schema if first else pa.schema([])
    schema = pa.schema([pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in schema])
    with pq.ParquetWriter(target, schema) as writer:
        while first:
            writer.write_table(pa.Table.from_pylist(first, schema=schema))
            first = list(itertools.islice(rows, CONVERT_ROWS))


def _rows(path: Path, config: BuildConfig) -> Iterator[dict[str, Any]]:
    readers = {"csv": _csv_rows, "tsv": _tsv_rows, "json": _json_rows, "jsonl": _jsonl_rows}
    reader = readers.get(str(_format_of(path)))
    try:
        with _open_text(path) as stream:
            yield from reader(stream, path) if reader else _txt_rows(stream, config)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, pa.ArrowException) as error:
        raise InputError(
            f"build.input: {path} cannot be read as {_format_of(path)} ({_first_line(error)}).",
            "A list is UTF-8 text of its ending's format.",
            "Correct that line, or give the file its true ending.",
        ) from error


def _open_text(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("rt", encoding="utf-8-sig", newline="")


def _csv_rows(stream: IO[str], path: Path, delimiter: str = ",") -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    for row in reader:
        if None in row:
            raise InputError(
                f"build.input: {path}, line {reader.line_num} has more fields than the header.",
                f"The header names {len(reader.fieldnames or [])} columns.",
                "Quote the field that holds the separator.",
            )
        yield row


def _tsv_rows(stream: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    return _csv_rows(stream, path, delimiter="\t")


def _json_rows(stream: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    rows = json.load(stream)
    if not isinstance(rows, list):
        raise InputError(
            f"build.input: {path} holds a JSON {type(rows).__name__}.",
            "A .json list is one array of objects; one object a line is .jsonl.",
            "Rename or convert the file.",
        )
    for number, row in enumerate(rows, 1):
        yield _as_object(row, path, f"element {number}")


def _jsonl_rows(stream: IO[str], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _as_object(json.loads(line), path, f"line {number}")


def _as_object(row: object, path: Path, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(
            f"build.input: {path}, {place} is not an object.", "Each row is a JSON object.", "Correct that row."
        )
    return row


def _txt_rows(stream: IO[str], config: BuildConfig) -> Iterator[dict[str, Any]]:
    for line in stream:
        row = {config.url_col: line.rstrip("\r\n")}
        if config.caption_col is not None:
            row[config.caption_col] = ""
        yield row


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
