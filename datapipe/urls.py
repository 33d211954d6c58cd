"""Opens the files of a URL list as Parquet with the columns that a build needs."""

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.conversions import as_parquet, remove_other_conversions, write_types
from datapipe.convert import read_list, survey
from datapipe.input_files import ListFile, find_input_files
from datapipe.list_columns import FileColumns, columns_of, refuse_mixed_types, types_of_empty
from datapipe.plan import InputFile
from datapipe.promotion import extremes_in
from infra.errors import InputError, first_line
from infra.storage import storage_of

WHOLE_HASH_BYTES = 256 << 20


def resolved(config: BuildConfig) -> BuildConfig:
    """The config as the build's tasks need it, on whatever machine and in whatever folder they run.

    Paths are absolute; a list of plain text alone has no captions. Raises InputError when no file is there.
    """
    files = find_input_files(config.input)
    has_captions = any(file.format != "txt" for file in files)
    return config.model_copy(
        update={
            "input": storage_of(config.input).url,
            "output": storage_of(config.output).url,
            "caption_col": config.caption_col if has_captions else None,
        }
    )


def open_url_list(config: BuildConfig, sources: Sequence[ListFile]) -> list[InputFile]:
    """The list's files as Parquet with their row counts; other formats are converted below the output first.

    Raises InputError for unreadable files and ConfigError for missing columns and types that do not go together.
    """
    opened = [as_parquet(file, config) for file in sources]
    files = [_open(parquet, source, config) for parquet, source in zip(opened, sources, strict=True)]
    _check_files(files, config)
    write_types(types_of_empty(files), config)
    remove_other_conversions([file.url for file in opened], config)
    return [InputFile(parquet.url, file.rows) for parquet, file in zip(opened, files, strict=True)]


def check_input(config: BuildConfig) -> int:
    """Reads what is not Parquet to its end, and of Parquet the metadata; returns the number of rows.

    Nothing is converted or written. Raises UserError as `open_url_list`.
    """
    found = find_input_files(config.input)
    files = [_open(file, file, config) if file.format == "parquet" else _survey(file, config) for file in found]
    _check_files(files, config)
    return sum(file.rows for file in files)


def _check_files(files: Sequence[FileColumns], config: BuildConfig) -> None:
    if not any(file.rows for file in files):
        raise InputError(
            f"build.input: {config.input} holds no rows.", "A list has at least one URL.", "Check the file."
        )
    refuse_mixed_types([file for file in files if file.rows], config)


def _survey(file: ListFile, config: BuildConfig) -> FileColumns:
    found = survey(read_list(file.url, file.open_stream, config.url_col))
    return columns_of(file, found.schema, found.rows, config, lambda _: found.extremes)


def _open(parquet: ListFile, source: ListFile, config: BuildConfig) -> FileColumns:
    """Reads the file's metadata alone. Errors name the file that the user gave."""
    try:
        with parquet.open_random() as stream:
            metadata = pq.read_metadata(stream)
            schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"build.input: {source} cannot be read as Parquet ({first_line(error)}).",
            "A list's Parquet file is whole and readable.",
            "Write it anew, or give it its true ending.",
        ) from error
    return columns_of(source, schema, metadata.num_rows, config, partial(extremes_in, metadata))


def input_identity(files: Iterable[ListFile]) -> str:
    """A hash of the content of the list's files that does not depend on where they lie. Raises FileNotFoundError.

    Of large Parquet files only the footer is read, which has every column chunk's size, place and extremes.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.size_bytes
        digest.update(f"{file.format} {size} ".encode())
        if file.format == "parquet" and size > WHOLE_HASH_BYTES:
            digest.update(_footer(file, size))
        else:
            digest.update(file.sha256().encode())
    return digest.hexdigest()


def _footer(file: ListFile, size: int) -> bytes:
    """The metadata at the end of a Parquet file; before the magic stands its length, little-endian."""
    length = int.from_bytes(file.storage.read_range(file.name, size - 8, 4), "little")
    return file.storage.read_range(file.name, size - 8 - length, length)
