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
from infra.errors import CorruptData
from infra.storage import storage_of

MAX_WAITING_BODIES = 64  # downloaded and not decoded yet; bounds the memory together with the open connections


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
    """The input rows: `url`, `caption` if there are any, then the list's further columns."""
    table = pa.concat_tables([_read_piece(piece, config) for piece in pieces], promote_options="permissive")
    columns = {"url": table[config.url_col].cast(pa.string())}
    if config.caption_col is not None:
        columns["caption"] = table[config.caption_col].cast(pa.string())
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
        raise CorruptData(
            f"{piece.path} has no rows {piece.first_row} to {piece.first_row + piece.rows} any more.",
            "The list must stay as it is while a dataset is built from it.",
            "Restore it, or build into another folder.",
        )
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
    results: queue.Queue[FetchResult | BaseException | None] = queue.Queue()
    is_abandoned = threading.Event()

    def fetch() -> None:
        try:
            for result in fetcher.fetch(requests, lambda: results.qsize() >= MAX_WAITING_BODIES):
                results.put(result)
                if is_abandoned.is_set():
                    return
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - the thread's border: raised again by the one who waits
            results.put(error)

    thread = threading.Thread(target=fetch, name="fetch", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        is_abandoned.set()
        thread.join()
