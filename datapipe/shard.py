"""Writes one shard: its tar while rows come in, then its Parquet file and the marker that vouches for both."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pyarrow as pa

from datapipe.commit import commit_shard
from datapipe.config import BuildConfig, OutputFormat
from datapipe.dataset import SHARD_DIGITS, shard_name
from datapipe.image_store import ImageStore, scratch_folder
from datapipe.marker import ShardStats
from datapipe.outcome import RowOutcome
from datapipe.shard_table import BATCH_ROWS, write_table
from datapipe.tar import TarWriter
from infra.errors import CorruptData
from infra.local_files import unwritable
from infra.staged import StagedFile
from infra.storage import Storage

# Dates and spans beyond Python's, unknown time zones, bytes that are no UTF-8.
UNREADABLE = (ValueError, OverflowError, KeyError, pa.ArrowException)


class ShardWriter:
    """Takes what became of the rows in any order, and writes them in theirs. A `with` block leaves nothing unfinished.

    `table` has the shard's input rows (url, caption, further columns). Raises OutputError when the place can't be
    written.
    """

    def __init__(self, output: Storage, shard: int, table: pa.Table, config: BuildConfig) -> None:
        self._output, self._shard, self._table, self._config = output, shard, table, config
        self._keys = [sample_key(shard, row, config.number_sample_per_shard) for row in range(table.num_rows)]
        self._outcomes: dict[int, RowOutcome] = {}
        self._offsets: list[int | None] = []
        self._values = _row_values(table)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "ShardWriter":
        name = shard_name(self._shard)
        self._images = self._stack.enter_context(ImageStore(scratch_folder(self._output)))
        self._parquet = self._stack.enter_context(StagedFile(self._output, f"{name}.parquet"))
        self._tar: StagedFile | None = None
        if self._config.output_format is OutputFormat.WEBDATASET:
            self._tar = self._stack.enter_context(StagedFile(self._output, f"{name}.tar"))
            self._samples = TarWriter(self._tar.stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, row: int, outcome: RowOutcome, image: bytes | None = None) -> None:
        """Takes a row's outcome, with its encoded picture when it is good."""
        with self._disk_errors_explained():
            self._outcomes[row] = outcome
            if image is not None:
                self._images.put(row, image)
            while self._tar is not None and len(self._offsets) in self._outcomes:
                self._offsets.append(self._write_sample(len(self._offsets)))

    def commit(self) -> ShardStats:
        """Writes what is left and commits the shard. Raises CorruptData when a row has got lost."""
        rows = self._table.num_rows
        if len(self._outcomes) != rows:
            raise CorruptData(f"Shard {self._shard} has {rows} rows and {len(self._outcomes)} outcomes.")
        outcomes = [self._outcomes[row] for row in range(rows)]
        counts = Counter(outcome.status.value for outcome in outcomes)
        stats = ShardStats(self._shard, rows, dict(sorted(counts.items())), {})
        image_of = None if self._tar is not None else self._images.take
        offsets = self._offsets if self._tar is not None else [None] * rows
        with self._disk_errors_explained():
            write_table(self._parquet.stream, self._table, self._keys, outcomes, offsets, self._config, image_of)
            if self._tar is None:
                return commit_shard(self._output, stats, [self._parquet])
            self._samples.close()
            return commit_shard(self._output, stats, [self._tar, self._parquet])

    def _write_sample(self, row: int) -> int | None:
        """Appends the row to the tar; returns its picture's offset, None for a row that is no sample."""
        values, outcome, key = next(self._values), self._outcomes[row], self._keys[row]
        if not outcome.status.is_success:
            return None
        offset = self._samples.add(f"{key}.{self._config.encode_format.value}", self._images.take(row))
        if self._config.caption_col is not None:
            self._samples.add(f"{key}.txt", (values["caption"] or "").encode("utf-8", "replace"))
        self._samples.add(f"{key}.json", _sample_json(key, values, outcome, self._config))
        return offset

    @contextlib.contextmanager
    def _disk_errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(scratch_folder(self._output), error) from error


def sample_key(shard: int, row: int, rows_per_shard: int) -> str:
    """img2dataset's key: the shard's number, then the row's in as many digits as a full shard needs."""
    digits = len(str(max(1, rows_per_shard - 1))) if rows_per_shard > 1 else 0
    return f"{shard * 10**digits + row:0{SHARD_DIGITS + digits}d}"


def _row_values(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        try:
            rows = batch.to_pylist()
        except UNREADABLE:
            columns = {name: [_value(scalar) for scalar in batch[name]] for name in batch.schema.names}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        yield from rows


def _value(scalar: pa.Scalar) -> Any:
    """The value; one that Python cannot hold (a day of the year 33658) as Arrow writes it, or as None."""
    try:
        return scalar.as_py()
    except UNREADABLE:
        with contextlib.suppress(*UNREADABLE):
            return scalar.cast(pa.string()).as_py()
    return None


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
