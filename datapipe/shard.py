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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.config import BuildConfig, OutputFormat
from datapipe.dataset import SHARD_DIGITS, shard_name
from datapipe.status import SampleStatus
from infra.errors import CorruptData
from infra.storage import Storage, sha256_of_file, unwritable

TAR_BLOCK_BYTES = 512
BATCH_ROWS = 1000  # rows whose pictures are held at once
STATS_SUFFIX = "_stats.json"


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What became of a row; the sizes and the hash are there for good ones. The hash is of the downloaded bytes."""

    status: SampleStatus
    message: str = ""
    spool_offset: int = 0
    length: int = 0
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A committed file's size and hash."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardStats:
    """A shard's counts and the files that its marker vouches for."""

    shard: int
    rows: int
    status_counts: dict[str, int]
    files: dict[str, FileFacts]

    @property
    def samples(self) -> int:
        """Rows that became samples."""
        return self.status_counts.get(SampleStatus.SUCCESS.value, 0)

    def to_json(self) -> bytes:
        """The marker: img2dataset's counts, then sizes and hashes."""
        resized = sum(n for s, n in self.status_counts.items() if not SampleStatus(s).is_download_failure)
        value = {
            "count": self.rows,
            "successes": self.samples,
            "failed_to_download": self.rows - resized,
            "failed_to_resize": resized - self.samples,
            "status_dict": self.status_counts,
            "files": {
                name: {"size_bytes": facts.size_bytes, "sha256": facts.sha256} for name, facts in self.files.items()
            },
        }
        return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, shard: int, data: bytes) -> "ShardStats":
        """Reads a marker. Raises ValueError or KeyError when it is none of ours."""
        raw = json.loads(data)
        files = {name: FileFacts(**facts) for name, facts in raw["files"].items()}
        return cls(shard, raw["count"], raw["status_dict"], files)


class ImageSpool:
    """Keeps encoded pictures as they are finished, in any order, on disk and not in memory.

    The file has no name, so that nothing stays behind when the process is killed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
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
    output.delete(f"{name}{STATS_SUFFIX}")  # a marker from before does not vouch for what comes now
    keys = [sample_key(shard, row, config.number_sample_per_shard) for row in range(table.num_rows)]
    files: dict[str, FileFacts] = {}
    offsets: list[int | None] = [None] * table.num_rows
    if config.output_format is OutputFormat.WEBDATASET:
        with output.local_writer(f"{name}.tar") as path:
            offsets = _write_tar(path, table, keys, outcomes, spool, config)
            files[f"{name}.tar"] = _facts(path)
    with output.local_writer(f"{name}.parquet") as path:
        _write_parquet(path, table, keys, outcomes, offsets, spool, config)
        files[f"{name}.parquet"] = _facts(path)
    counts = Counter(outcome.status.value for outcome in outcomes)
    stats = ShardStats(shard, table.num_rows, dict(sorted(counts.items())), files)
    output.write_bytes(f"{name}{STATS_SUFFIX}", stats.to_json())
    return stats


def _write_tar(
    path: Path,
    table: pa.Table,
    keys: Sequence[str],
    outcomes: Sequence[RowOutcome],
    spool: ImageSpool,
    config: BuildConfig,
) -> list[int | None]:
    """Writes the samples in row order; returns each one's image offset."""
    offsets: list[int | None] = []
    with path.open("wb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row, values in enumerate(_row_values(table)):
            outcome = outcomes[row]
            if not outcome.status.is_success:
                offsets.append(None)
                continue
            offsets.append(stream.tell() + TAR_BLOCK_BYTES)
            _add(tar, f"{keys[row]}.{config.encode_format}", spool.read(outcome.spool_offset, outcome.length))
            if config.caption_col is not None:
                _add(tar, f"{keys[row]}.txt", (values["caption"] or "").encode("utf-8", "replace"))
            _add(tar, f"{keys[row]}.json", _sample_json(keys[row], values, outcome))
    return offsets


def _row_values(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from batch.to_pylist()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _sample_json(key: str, values: dict[str, Any], outcome: RowOutcome) -> bytes:
    value = {
        **values,
        "key": key,
        "status": outcome.status.value,
        "error_message": None,
        "width": outcome.width,
        "height": outcome.height,
        "original_width": outcome.original_width,
        "original_height": outcome.original_height,
        "sha256": outcome.sha256,
    }
    return json.dumps(value, indent=4, default=str, ensure_ascii=True).encode()


def _write_parquet(
    path: Path,
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
            part = _with_outcomes(table.slice(start, BATCH_ROWS), keys[rows], outcomes[rows], offsets[rows])
            if config.output_format is OutputFormat.PARQUET:
                images = [spool.read(o.spool_offset, o.length) if o.status.is_success else None for o in outcomes[rows]]
                part = part.append_column(config.encode_format.value, pa.array(images, pa.binary()))
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, part.schema, compression="zstd"))
            writer.write_table(part)


def _with_outcomes(
    table: pa.Table, keys: Sequence[str], outcomes: Sequence[RowOutcome], offsets: Sequence[int | None]
) -> pa.Table:
    added: list[tuple[str, pa.Array]] = [
        ("status", pa.array([outcome.status.value for outcome in outcomes], pa.string())),
        ("error_message", pa.array([outcome.message or None for outcome in outcomes], pa.string())),
        ("width", pa.array([outcome.width for outcome in outcomes], pa.int32())),
        ("height", pa.array([outcome.height for outcome in outcomes], pa.int32())),
        ("original_width", pa.array([outcome.original_width for outcome in outcomes], pa.int32())),
        ("original_height", pa.array([outcome.original_height for outcome in outcomes], pa.int32())),
        ("sha256", pa.array([outcome.sha256 for outcome in outcomes], pa.string())),
        ("image_offset", pa.array(offsets, pa.int64())),
        ("image_length", pa.array([o.length if o.status.is_success else None for o in outcomes], pa.int64())),
    ]
    result = table.add_column(0, "key", pa.array(keys, pa.string()))
    for name, values in added:
        result = result.append_column(name, values)
    return result


def _facts(path: Path) -> FileFacts:
    return FileFacts(path.stat().st_size, sha256_of_file(path))
