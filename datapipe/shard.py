"""Writes one shard: tar and Parquet in row order, then the marker that vouches for their bytes."""

import contextlib
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.commit import commit_shard
from datapipe.config import BuildConfig, OutputFormat
from datapipe.dataset import SHARD_DIGITS, shard_name
from datapipe.marker import ShardStats
from datapipe.status import SampleStatus
from infra.errors import CorruptData
from infra.local_files import unwritable
from infra.staged import StagedFile
from infra.storage import Storage

TAR_BLOCK_BYTES = 512
BATCH_ROWS = 1000  # rows whose pictures are held at once


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of a row; sizes, EXIF and hash are there for good ones. The hash is of the downloaded bytes."""

    status: SampleStatus
    message: str = ""
    spool_offset: int = 0
    length: int = 0
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    digest: str | None = None


class ImageSpool:
    """Keeps encoded pictures as they are finished, in any order, on disk and not in memory.

    The file has no name, so that nothing stays behind when the process is killed.
    """

    def __init__(self, output: Storage) -> None:
        self._folder = scratch_folder(output)
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
        self._end = 0

    def __enter__(self) -> "ImageSpool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, data: bytes) -> int:
        """Keeps the bytes; returns their offset. Raises OutputError when the disk is full."""
        offset = self._end
        try:
            self._file.seek(offset)
            self._file.write(data)
        except OSError as error:
            raise unwritable(self._folder, error) from error
        self._end += len(data)
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """The bytes kept at the offset."""
        self._file.seek(offset)
        return self._file.read(length)


def scratch_folder(output: Storage) -> Path:
    """Where this machine keeps a shard's unfinished bytes: in the output itself, or with other temporary files."""
    if not output.is_local:
        return Path(tempfile.gettempdir())
    folder = output.local_path()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sample_key(shard: int, row: int, rows_per_shard: int) -> str:
    """img2dataset's key: the shard's number, then the row's in as many digits as a full shard needs."""
    digits = len(str(max(1, rows_per_shard - 1))) if rows_per_shard > 1 else 0
    return f"{shard * 10**digits + row:0{SHARD_DIGITS + digits}d}"


def write_shard(
    output: Storage, shard: int, table: pa.Table, outcomes: Sequence[RowOutcome], spool: ImageSpool, config: BuildConfig
) -> ShardStats:
    """Writes and commits the shard of the input rows `table` (url, caption, further columns).

    Raises OutputError when the place can't be written, CorruptData when a row has got lost.
    """
    if len(outcomes) != table.num_rows:
        raise CorruptData(f"Shard {shard} has {table.num_rows} rows and {len(outcomes)} outcomes.")
    name = shard_name(shard)
    keys = [sample_key(shard, row, config.number_sample_per_shard) for row in range(table.num_rows)]
    counts = Counter(outcome.status.value for outcome in outcomes)
    stats = ShardStats(shard, table.num_rows, dict(sorted(counts.items())), {})
    offsets: list[int | None] = [None] * table.num_rows
    with contextlib.ExitStack() as stack, disk_errors_explained(output):
        staged = []
        if config.output_format is OutputFormat.WEBDATASET:
            staged.append(stack.enter_context(StagedFile(output, f"{name}.tar")))
            offsets = _write_tar(staged[-1].stream, table, keys, outcomes, spool, config)
        staged.append(stack.enter_context(StagedFile(output, f"{name}.parquet")))
        _write_parquet(staged[-1].stream, table, keys, outcomes, offsets, spool, config)
        return commit_shard(output, stats, staged)


@contextlib.contextmanager
def disk_errors_explained(output: Storage) -> Iterator[None]:
    """Raises OutputError for a disk that is full or cannot be written."""
    try:
        yield
    except OSError as error:
        raise unwritable(scratch_folder(output), error) from error


def _write_tar(
    stream: BinaryIO,
    table: pa.Table,
    keys: Sequence[str],
    outcomes: Sequence[RowOutcome],
    spool: ImageSpool,
    config: BuildConfig,
) -> list[int | None]:
    """Writes the samples in row order; returns each one's image offset."""
    offsets: list[int | None] = []
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, values in enumerate(_row_values(table)):
            outcome = outcomes[row]
            if not outcome.status.is_success:
                offsets.append(None)
                continue
            offsets.append(stream.tell() + TAR_BLOCK_BYTES)
            _add(tar, f"{keys[row]}.{config.encode_format}", spool.read(outcome.spool_offset, outcome.length))
            if config.caption_col is not None:
                _add(tar, f"{keys[row]}.txt", (values["caption"] or "").encode("utf-8", "replace"))
            _add(tar, f"{keys[row]}.json", _sample_json(keys[row], values, outcome, config))
    return offsets


def _row_values(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from batch.to_pylist()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _sample_json(key: str, values: dict[str, Any], outcome: RowOutcome, config: BuildConfig) -> bytes:
    value = {
        **values,
        "key": key,
        "status": outcome.status.value,
        "error_message": None,
        "width": outcome.width,
        "height": outcome.height,
        "original_width": outcome.original_width,
        "original_height": outcome.original_height,
    }
    if config.extract_exif:
        value["exif"] = outcome.exif
    if config.compute_hash is not None:
        value[config.compute_hash.value] = outcome.digest
    return json.dumps(value, default=str, ensure_ascii=True).encode()


def _write_parquet(
    stream: BinaryIO,
    table: pa.Table,
    keys: Sequence[str],
    outcomes: Sequence[RowOutcome],
    offsets: Sequence[int | None],
    spool: ImageSpool,
    config: BuildConfig,
) -> None:
    with contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for start in range(0, table.num_rows, BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            part = _with_outcomes(table.slice(start, BATCH_ROWS), keys[rows], outcomes[rows], offsets[rows], config)
            if config.output_format is OutputFormat.PARQUET:
                images = [spool.read(o.spool_offset, o.length) if o.status.is_success else None for o in outcomes[rows]]
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
    added: list[tuple[str, pa.Array]] = [
        ("status", pa.array([outcome.status.value for outcome in outcomes], pa.string())),
        ("error_message", pa.array([outcome.message or None for outcome in outcomes], pa.string())),
        ("width", pa.array([outcome.width for outcome in outcomes], pa.int32())),
        ("height", pa.array([outcome.height for outcome in outcomes], pa.int32())),
        ("original_width", pa.array([outcome.original_width for outcome in outcomes], pa.int32())),
        ("original_height", pa.array([outcome.original_height for outcome in outcomes], pa.int32())),
        ("image_offset", pa.array(offsets, pa.int64())),
        ("image_length", pa.array([o.length if o.status.is_success else None for o in outcomes], pa.int64())),
    ]
    if config.extract_exif:
        added.insert(-2, ("exif", pa.array([outcome.exif for outcome in outcomes], pa.string())))
    if config.compute_hash is not None:
        digests = pa.array([outcome.digest for outcome in outcomes], pa.string())
        added.insert(-2, (config.compute_hash.value, digests))
    result = table.add_column(0, "key", pa.array(keys, pa.string()))
    for name, values in added:
        result = result.append_column(name, values)
    return result
