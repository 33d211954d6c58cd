"""Does one shard from URLs to committed files: the work of one task."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from datapipe.addresses import Refusal
from datapipe.backlog import fetch_in_background
from datapipe.baton import Baton
from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest, FetchResult
from datapipe.image import StoredImage, process_image
from datapipe.image_store import scratch_folder
from datapipe.isolation import IsolatedDecoder, ProcessImage
from datapipe.marker import ShardStats
from datapipe.outcome import RowOutcome
from datapipe.plan import ShardPlan
from datapipe.resolve import Resolver
from datapipe.rows import read_rows
from datapipe.shard import ShardWriter
from datapipe.status import SampleStatus
from datapipe.watchdog import Watchdog
from infra.storage import storage_of


@dataclass(slots=True)
class ShardProgress:
    """How far a shard is: its rows by what became of them, and the bytes that were downloaded."""

    status_counts: Counter[str] = field(default_factory=Counter)
    downloaded_bytes: int = 0

    @property
    def rows(self) -> int:
        """Rows dealt with."""
        return self.status_counts.total()


@dataclass(slots=True)
class WorkerTools:
    """What the shards of one process share."""

    baton: Baton = field(default_factory=Baton)
    resolver: Resolver = field(default_factory=Resolver)
    watchdog: Watchdog = field(default_factory=Watchdog)
    process_image: ProcessImage = process_image


def build_shard(
    plan: ShardPlan,
    config: BuildConfig,
    on_progress: Callable[[ShardProgress], None],
    tools: WorkerTools | None = None,
    *,
    isolated: bool = False,
) -> ShardStats:
    """Downloads, processes, writes and commits the shard; `on_progress` is told of each row.

    With `isolated`, pictures are decoded in a child process, so that a crash costs one picture and not the shard.
    """
    tools = tools or WorkerTools()
    table = read_rows(plan.pieces, config)
    requests = [FetchRequest(row, url) for row, url in enumerate(table["url"].to_pylist())]
    progress = ShardProgress()
    output = storage_of(config.output)
    with (
        ShardWriter(output, plan.shard, table, config) as shard,
        Fetcher(config, tools.resolver, scratch=scratch_folder(output)) as fetcher,
        IsolatedDecoder(config, tools.process_image) as child,
    ):
        decode = child.process if isolated else partial(_watched, tools, config)
        for result in fetch_in_background(fetcher, requests, tools.baton, plan.shard):
            row = _processed(result, decode, config)
            shard.add(result.row, row.outcome, row.data)
            progress.status_counts[row.outcome.status.value] += 1
            progress.downloaded_bytes += row.downloaded_bytes
            on_progress(progress)
        return shard.commit()


@dataclass(frozen=True, slots=True)
class _ProcessedRow:
    """What became of a row, the picture that is stored, and the bytes that it took to download."""

    outcome: RowOutcome
    data: bytes | None = None
    downloaded_bytes: int = 0


def _watched(tools: WorkerTools, config: BuildConfig, body: bytes) -> StoredImage | Refusal:
    with tools.watchdog:
        return tools.process_image(body, config)


def _processed(
    result: FetchResult, decode: Callable[[bytes], StoredImage | Refusal], config: BuildConfig
) -> _ProcessedRow:
    """The picture of a URL, or why there is none. The downloaded bytes are in memory in here alone."""
    if result.body is None:
        return _ProcessedRow(RowOutcome(result.status, result.message))
    body = result.body.take()
    stored = decode(body)
    if isinstance(stored, Refusal):
        return _ProcessedRow(RowOutcome(stored.status, stored.message), downloaded_bytes=len(body))
    return _ProcessedRow(_outcome(result.status, stored, body, config), stored.data, len(body))


def _outcome(status: SampleStatus, stored: StoredImage, body: bytes, config: BuildConfig) -> RowOutcome:
    return RowOutcome(
        status,
        length=len(stored.data),
        width=stored.width,
        height=stored.height,
        original_width=stored.original_width,
        original_height=stored.original_height,
        exif=stored.exif,
        digest=hashlib.new(config.compute_hash, body).hexdigest() if config.compute_hash else None,
    )
