"""Keeps the Parquet files that the text files of a URL list are converted to, in a folder of the dataset."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.convert import convert_to_parquet
from datapipe.input_files import ListFile
from infra.local_files import LocalWriter
from infra.session_folder import session_folder
from infra.storage import Storage, storage_of

CONVERTED_FOLDER = "_input"
TYPES_FILE = "types.parquet"  # no rows: its columns are those that a file has no value of, and their types


def as_parquet(file: ListFile, config: BuildConfig) -> ListFile:
    """The file itself if it is Parquet; else its conversion, made now unless a former start made it.

    Raises InputError with the line that cannot be read, and OutputError.
    """
    if file.format == "parquet":
        return file
    # Conversions of JSON had texts once where a column has no value.
    rule = "nulls" if file.format in ("json", "jsonl") else ""
    identity = hashlib.sha256(f"{file.sha256()} {config.url_col}{rule}".encode()).hexdigest()[:16]
    folder = _folder(config)
    target = ListFile(folder, f"{file.name}.{identity}.parquet")
    if not folder.exists(target.name):
        _convert(file, target, config.url_col)
    return target


def _convert(file: ListFile, target: ListFile, url_col: str) -> None:
    """Writes the conversion on this machine's disk first. Raises OutputError, also for a disk that is full."""
    if target.storage.is_local:
        with target.storage.local_writer(target.name) as temporary:
            convert_to_parquet(file.url, file.open_stream, temporary, url_col)
        return
    with session_folder("list-", Path(tempfile.gettempdir())) as scratch:
        with LocalWriter(scratch / "list") as temporary:
            convert_to_parquet(file.url, file.open_stream, temporary, url_col)
        target.storage.put_file(scratch / "list", target.name)


def is_conversion(place: str, config: BuildConfig) -> bool:
    """Whether the file is one that `as_parquet` made."""
    return place.rpartition("/")[0] == _folder(config).url


def write_types(types: pa.Schema, config: BuildConfig) -> None:
    """Keeps the types of the columns that a converted file has no value of, before its first row is read."""
    if types.names:
        sink = pa.BufferOutputStream()
        pq.write_table(types.empty_table(), sink)
        _folder(config).write_bytes(TYPES_FILE, sink.getvalue().to_pybytes())


def read_types(config: BuildConfig) -> pa.Schema:
    """What `write_types` kept. Raises OSError."""
    return pq.read_schema(pa.BufferReader(_folder(config).read_bytes(TYPES_FILE)))


def remove_other_conversions(used: Iterable[str], config: BuildConfig) -> None:
    """Those of a list that was corrected before its first shard."""
    folder, kept = _folder(config), set(used)
    for entry in folder.list_files():
        if entry.path != TYPES_FILE and ListFile(folder, entry.path).url not in kept:
            folder.delete(entry.path)


def _folder(config: BuildConfig) -> Storage:
    return storage_of(config.output).at(CONVERTED_FOLDER)
