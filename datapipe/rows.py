"""Reads the input rows of one shard."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.input_files import ListFile
from datapipe.plan import Piece
from datapipe.urls import additional_columns
from infra.errors import InputError


def read_rows(pieces: Sequence[Piece], config: BuildConfig) -> pa.Table:
    """The input rows: `url`, `caption` if there are any, then the list's further columns.

    Raises InputError when the rows cannot be read as they could when the build began.
    """
    try:
        table = pa.concat_tables([_read_piece(piece, config) for piece in pieces], promote_options="permissive")
        columns = {"url": table[config.url_col].cast(pa.string())}
        if config.caption_col is not None:
            columns["caption"] = table[config.caption_col].cast(pa.string())
    except (OSError, pa.ArrowException) as error:
        files = ", ".join(sorted({piece.path for piece in pieces}))
        raise InputError(
            f"build.input: {files} cannot be read ({(str(error).splitlines() or [''])[0]}).",
            "The list must stay as it is while a dataset is built from it, and its files have columns of one type.",
            "Restore it and run the same command again: it goes on.",
        ) from error
    for name in additional_columns(table.column_names, config):
        columns[name] = table[name]
    return pa.table(columns).combine_chunks()


def _read_piece(piece: Piece, config: BuildConfig) -> pa.Table:
    """Reads the row groups that hold the piece, and cuts it out."""
    with ListFile.at(piece.path).open_random() as stream, pq.ParquetFile(stream) as file:
        first, groups, skipped = 0, list[int](), 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first + rows <= piece.first_row:
                skipped += rows
            elif first < piece.first_row + piece.rows:
                groups.append(group)
            first += rows
        names = file.schema_arrow.names
        wanted = [config.url_col, *([config.caption_col] if config.caption_col else [])]
        columns = [*wanted, *additional_columns(names, config)]
        part = file.read_row_groups(groups, columns=columns).slice(piece.first_row - skipped, piece.rows)
    if part.num_rows != piece.rows:
        raise OSError(f"there are no rows {piece.first_row} to {piece.first_row + piece.rows} any more")
    return part
