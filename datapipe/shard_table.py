"""Writes a shard's Parquet file: one row per input row, with what became of it."""

import contextlib
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig
from datapipe.outcome import RowOutcome
from infra.staged import HashedStream

BATCH_ROWS = 1000
PICTURE_ROWS = 250  # with pictures in the rows: who wants one of them reads a whole row group


def write_table(
    stream: HashedStream,
    table: pa.Table,
    keys: Sequence[str],
    outcomes: Sequence[RowOutcome],
    offsets: Sequence[int | None],
    config: BuildConfig,
    image_of: Callable[[int], bytes] | None,
) -> None:
    """Writes the input rows `table` (url, caption, further columns) with keys and outcomes.

    `offsets` are the pictures' places in the tar; with `image_of`, which gives a row's picture, they are a column.
    """
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        step = BATCH_ROWS if image_of is None else PICTURE_ROWS
        for start in range(0, table.num_rows, step):
            rows = slice(start, start + step)
            part = _with_outcomes(table.slice(start, step), keys[rows], outcomes[rows], offsets[rows], config)
            if image_of is not None:
                kept = enumerate(outcomes[rows], start)
                images = [image_of(row) if outcome.status.is_success else None for row, outcome in kept]
                part = part.append_column(config.encode_format.value, pa.array(images, pa.binary()))
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(stream, part.schema, compression="zstd"))
            writer.write_table(part)


def _with_outcomes(
    table: pa.Table,
    keys: Sequence[str],
    outcomes: Sequence[RowOutcome],
    offsets: Sequence[int | None],
    config: BuildConfig,
) -> pa.Table:
    text, number = pa.string(), pa.int32()
    added: list[tuple[str, pa.Array]] = [
        ("status", pa.array([outcome.status.value for outcome in outcomes], text)),
        ("error_message", pa.array([outcome.message or None for outcome in outcomes], text)),
        ("width", pa.array([outcome.width for outcome in outcomes], number)),
        ("height", pa.array([outcome.height for outcome in outcomes], number)),
        ("original_width", pa.array([outcome.original_width for outcome in outcomes], number)),
        ("original_height", pa.array([outcome.original_height for outcome in outcomes], number)),
    ]
    if config.extract_exif:
        added.append(("exif", pa.array([outcome.exif for outcome in outcomes], text)))
    if config.compute_hash is not None:
        added.append((config.compute_hash.value, pa.array([outcome.digest for outcome in outcomes], text)))
    added += [
        ("image_offset", pa.array(offsets, pa.int64())),
        ("image_length", pa.array([outcome.length for outcome in outcomes], pa.int64())),
    ]
    result = table.add_column(0, "key", pa.array(keys, text))
    for name, values in added:
        result = result.append_column(name, values)
    return result
