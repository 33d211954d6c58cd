"""Opens the files of a URL list as Parquet with the columns that a build needs."""

import difflib
import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.convert import convert_to_parquet, read_list
from datapipe.input_files import ListFile, find_input_files
from datapipe.plan import InputFile
from infra.errors import ConfigError, InputError
from infra.storage import storage_of

CONVERTED_FOLDER = "_input"
WHOLE_HASH_BYTES = 256 << 20
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
        "md5",
        "sha256",
        "sha512",
        "exif",
        "image_offset",
        "image_length",
        "jpg",
        "png",
        "webp",
    }
)


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


def open_url_list(config: BuildConfig) -> list[InputFile]:
    """The list as Parquet files with their row counts; other formats are converted below the output first.

    Raises InputError for unreadable files and ConfigError for missing columns.
    """
    opened = [_open(_as_parquet(file, config), file, config) for file in find_input_files(config.input)]
    _require_rows(sum(file.rows for file in opened), config)
    _remove_other_conversions({file.path for file in opened}, config)
    return opened


def check_input(config: BuildConfig) -> int:
    """Reads what is not Parquet to its end, and of Parquet the metadata; returns the number of rows.

    Nothing is converted or written. Raises UserError for missing and unreadable files and missing columns.
    """
    rows = 0
    for file in find_input_files(config.input):
        rows += _open(file, file, config).rows if file.format == "parquet" else _check_text_list(file, config)
    _require_rows(rows, config)
    return rows


def _check_text_list(file: ListFile, config: BuildConfig) -> int:
    rows, names = 0, dict[str, None]()
    for row in read_list(file.url, file.open_stream, config.url_col):
        rows += 1
        names.update(dict.fromkeys(row))
    if rows:
        check_columns(list(names), file.url, config)
    return rows


def check_columns(names: list[str], where: str, config: BuildConfig) -> None:
    """Raises ConfigError when a configured column is missing or a further one has a name of ours."""
    wanted = [("url_col", config.url_col), ("caption_col", config.caption_col)]
    wanted += [("save_additional_columns", name) for name in config.save_additional_columns or []]
    for key, name in wanted:
        if name is not None and name not in names:
            near = _nearest(name, names)
            raise ConfigError(
                f"build.{key}: {where} has no column {name!r}.",
                f"Its columns are: {', '.join(names)}.",
                f"Set build.{key}={near or 'one of them'}"
                + (", or caption_col=null for a list without captions." if key == "caption_col" else "."),
            )
    for name in additional_columns(names, config):
        if name in OWN_COLUMNS:
            raise ConfigError(
                f"build.save_additional_columns: {where} has a column {name!r} besides the one for it.",
                f"The dataset has its own columns {', '.join(sorted(OWN_COLUMNS))}.",
                "Rename it, or list the columns to keep in save_additional_columns.",
            )


def _nearest(name: str, names: Sequence[str]) -> str | None:
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    return by_lower[near[0]] if near else None


def additional_columns(names: Iterable[str], config: BuildConfig) -> list[str]:
    """The list's further columns that go into the dataset, in their order."""
    kept = config.save_additional_columns
    chosen = {config.url_col, config.caption_col}
    return [name for name in names if name not in chosen and (kept is None or name in kept)]


def input_identity(config: BuildConfig) -> str:
    """A hash of the list's content that does not depend on where it lies.

    Of large Parquet files only the footer is read, which has every column chunk's size, place and extremes.
    """
    digest = hashlib.sha256()
    for file in find_input_files(config.input):
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


def _require_rows(rows: int, config: BuildConfig) -> None:
    if not rows:
        raise InputError(
            f"build.input: {config.input} holds no rows.", "A list has at least one URL.", "Check the file."
        )


def _as_parquet(file: ListFile, config: BuildConfig) -> ListFile:
    """The file itself if it is Parquet; else its conversion, made now unless a former start made it."""
    if file.format == "parquet":
        return file
    identity = hashlib.sha256(f"{file.sha256()} {config.url_col}".encode()).hexdigest()[:16]
    folder = storage_of(config.output).at(CONVERTED_FOLDER)
    target = ListFile(folder, f"{file.name}.{identity}.parquet")
    if not folder.exists(target.name):
        with tempfile.TemporaryDirectory(prefix="diptych-") as scratch:
            temporary = folder.local_path() / f".{target.name}.partial" if folder.is_local else Path(scratch) / "list"
            temporary.parent.mkdir(parents=True, exist_ok=True)
            convert_to_parquet(file.url, file.open_stream, temporary, config.url_col)
            folder.put_file(temporary, target.name)
    return target


def _remove_other_conversions(used: set[str], config: BuildConfig) -> None:
    """Those of a list that was corrected before its first shard."""
    folder = storage_of(config.output).at(CONVERTED_FOLDER)
    for entry in folder.list_files():
        if ListFile(folder, entry.path).url not in used:
            folder.delete(entry.path)


def _open(parquet: ListFile, source: ListFile, config: BuildConfig) -> InputFile:
    """Reads the file's metadata alone. Errors name the file that the user gave."""
    try:
        with parquet.open_random() as stream:
            metadata = pq.read_metadata(stream)
            schema = metadata.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"build.input: {source} cannot be read as Parquet ({(str(error).splitlines() or [''])[0]}).",
            "A list's Parquet file is whole and readable.",
            "Write it anew, or give it its true ending.",
        ) from error
    if metadata.num_rows:
        check_columns(schema.names, source.url, config)
        _check_text(schema, source, config)
    return InputFile(parquet.url, metadata.num_rows)


def _check_text(schema: pa.Schema, source: ListFile, config: BuildConfig) -> None:
    for key, name in (("url_col", config.url_col), ("caption_col", config.caption_col)):
        kind = schema.field(name).type if name is not None else pa.string()
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_nested(value) or pa.types.is_binary(value) or pa.types.is_large_binary(value):
            raise ConfigError(
                f"build.{key}: column {name!r} of {source} holds {kind}.",
                "A column of text is needed.",
                f"Convert it, or set build.{key} to another column: {', '.join(schema.names)}.",
            )
