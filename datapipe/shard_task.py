"""Does one shard from URLs to committed files: the work of one task."""

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.addresses import Refusal
from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest, FetchResult
from datapipe.image import process_image
from datapipe.plan import Piece, ShardPlan
from datapipe.shard import ImageSpool, RowOutcome, ShardStats, write_shard
from datapipe.urls import additional_columns
from infra.errors import InputError
from infra.storage import storage_of

# Downloaded and not decoded yet; bounds the memory together with the open connections.
MAX_WAITING_BODIES = 64
MAX_WAITING_BYTES = 128 << 20


def build_shard(plan: ShardPlan, config: BuildConfig, on_rows: Callable[[int], None]) -> ShardStats:
    """Downloads, processes, writes and commits the shard. `on_rows` is told the number of rows dealt with."""
    cv2.setNumThreads(1)  # one task a core
    output = storage_of(config.output)
    table = read_rows(plan.pieces, config)
    requests = [FetchRequest(row, url) for row, url in enumerate(table["url"].to_pylist())]
    outcomes: list[RowOutcome | None] = [None] * len(requests)
    with ImageSpool(output.local_path()) as spool, Fetcher(config) as fetcher:
        for done, result in enumerate(_fetch_in_background(fetcher, requests), 1):
            outcomes[result.row] = _outcome(result, config, spool)
            on_rows(done)
        finished = [outcome for outcome in outcomes if outcome is not None]
        return write_shard(output, plan.shard, table, finished, spool, config)


def read_rows(pieces: Sequence[Piece], config: BuildConfig) -> pa.Table:
    """The input rows: `url`, `caption` if there are any, then the list's further columns.

    Raises InputError when the list is not any more what it was when the build began.
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
    with pq.ParquetFile(piece.path) as file:
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


def _outcome(result: FetchResult, config: BuildConfig, spool: ImageSpool) -> RowOutcome:
    if not result.status.is_success:
        return RowOutcome(result.status, result.message)
    stored = process_image(result.body, config)
    if isinstance(stored, Refusal):
        return RowOutcome(stored.status, stored.message)
    return RowOutcome(
        result.status,
        spool_offset=spool.add(stored.data),
        length=len(stored.data),
        width=stored.width,
        height=stored.height,
        original_width=stored.original_width,
        original_height=stored.original_height,
        sha256=hashlib.sha256(result.body).hexdigest(),
    )


def _fetch_in_background(fetcher: Fetcher, requests: Iterable[FetchRequest]) -> Iterator[FetchResult]:
    """Fetches in a thread of its own, so that decoding never makes a transfer run into its time limit."""
    backlog = _Backlog()

    def fetch() -> None:
        try:
            for result in fetcher.fetch(requests, backlog.is_full):
                backlog.put(result)
            backlog.put(None)
        except _AbandonedError:
            return
        except BaseException as error:  # noqa: BLE001 - the thread's border: raised again by the one who waits
            backlog.put(error)

    thread = threading.Thread(target=fetch, name="fetch", daemon=True)
    thread.start()
    try:
        while (result := backlog.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        backlog.abandon()
        thread.join()


class _AbandonedError(Exception):
    """Nobody wants the results any more."""


class _Backlog:
    """Results between the thread that fetches and the one that decodes, limited in number and bytes."""

    def __init__(self) -> None:
        self._results: queue.Queue[FetchResult | BaseException | None] = queue.Queue()
        self._is_abandoned = threading.Event()
        # Each is changed by one thread alone.
        self._bytes_put = self._bytes_taken = 0

    def put(self, result: FetchResult | BaseException | None) -> None:
        self._bytes_put += _body_bytes(result)
        self._results.put(result)

    def get(self) -> FetchResult | BaseException | None:
        result = self._results.get()
        self._bytes_taken += _body_bytes(result)
        return result

    def is_full(self) -> bool:
        if self._is_abandoned.is_set():
            raise _AbandonedError
        waiting_bytes = self._bytes_put - self._bytes_taken
        return self._results.qsize() >= MAX_WAITING_BODIES or waiting_bytes >= MAX_WAITING_BYTES

    def abandon(self) -> None:
        self._is_abandoned.set()


def _body_bytes(result: FetchResult | BaseException | None) -> int:
    return len(result.body) if isinstance(result, FetchResult) else 0
