"""Reads the input rows of one shard."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.columns import is_text
from datapipe.config import BuildConfig
from datapipe.conversions import is_conversion, read_types
from datapipe.input_files import ListFile
from datapipe.list_columns import additional_columns, stored_type
from datapipe.plan import Piece
from infra.errors import InputError, first_line

BATCH_ROWS = 10_000  # decoded at once
BUFFER_BYTES = 4 << 20  # of each column; without, a row group's whole column is read before its first row


def read_rows(pieces: Sequence[Piece], config: BuildConfig) -> pa.Table:
    """The input rows: `url`, `caption` if there are any, then the list's further columns.

    Raises InputError when the rows cannot be read as they could when the build began.
    """
    try:
        parts = [_as_stored(_read_piece(piece, config), config) for piece in pieces]
        return _joined(parts, pieces, config).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        files = ", ".join(sorted({piece.path for piece in pieces}))
        raise InputError(
            f"build.input: {files} cannot be read ({first_line(error)}).",
            "The list must stay as it is while a dataset is built from it, and its files have columns of one type.",
            "Restore it and run the same command again: it goes on.",
        ) from error


def _joined(parts: Sequence[pa.Table], pieces: Sequence[Piece], config: BuildConfig) -> pa.Table:
    """The parts one after another; a column whose types differ has the one that holds all of them."""
    rows = pa.concat_tables(parts, promote_options="permissive")
    converted = [part for part, piece in zip(parts, pieces, strict=True) if is_conversion(piece.path, config)]
    for name in dict.fromkeys(name for part in converted for name in _empty(part)):
        if pa.types.is_null(rows[name].type):
            kind = read_types(config).field(name).type
            rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(kind))
    return rows


def _empty(part: pa.Table) -> list[str]:
    return [field.name for field in part.schema if pa.types.is_null(field.type)]


def _as_stored(part: pa.Table, config: BuildConfig) -> pa.Table:
    """The columns as the dataset has them."""
    columns = {"url": part[config.url_col].cast(pa.string())}
    if config.caption_col is not None:
        columns["caption"] = part[config.caption_col].cast(pa.string())
    columns |= {name: part[name] for name in additional_columns(part.column_names, config)}
    return pa.table(columns)


def _read_piece(piece: Piece, config: BuildConfig) -> pa.Table:
    """Reads the row groups that hold the piece up to its last row, and copies it out of them."""
    with (
        ListFile.at(piece.path).open_random() as stream,
        pq.ParquetFile(stream, buffer_size=BUFFER_BYTES) as file,
    ):
        first, groups, skipped = 0, list[int](), 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first + rows <= piece.first_row:
                skipped += rows
            elif first < piece.first_row + piece.rows:
                groups.append(group)
            first += rows
        wanted = [config.url_col, *([config.caption_col] if config.caption_col else [])]
        columns = list(dict.fromkeys([*wanted, *additional_columns(file.schema_arrow.names, config)]))
        batches = file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns)
        parts = list(_cut(batches, piece.first_row - skipped, piece.rows))
    if sum(part.num_rows for part in parts) != piece.rows:
        raise OSError(f"there are no rows {piece.first_row} to {piece.first_row + piece.rows} any more")
    return pa.Table.from_batches(parts)


def _cut(batches: Iterable[pa.RecordBatch], first: int, rows: int) -> Iterator[pa.RecordBatch]:
    """`rows` rows from `first` on, in memory of their own: a slice would keep all that was read."""
    for batch in batches:
        part = batch.slice(first, rows)
        first = max(0, first - batch.num_rows)
        if part.num_rows:
            copied = [_valid(pa.concat_arrays([column.cast(stored_type(column.type))])) for column in part]
            yield pa.RecordBatch.from_arrays(copied, names=part.schema.names)
            rows -= part.num_rows
            if not rows:
                return


def _valid(column: pa.Array) -> pa.Array:
    """The same with U+FFFD for what is no UTF-8 in texts and lists of texts: Arrow does not look when it reads."""
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        values = column.values
        if (mended := _valid(values)) is values:
            return column
        return type(column).from_arrays(column.offsets, mended, type=kind, mask=column.is_null())
    if not is_text(kind) and not pa.types.is_string_view(kind):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        return pa.array([None if value is None else value.decode(errors="replace") for value in values], kind)
    return column
