"""Does one shard from URLs to committed files: the work of one task."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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
    ):
        for result, stored in _processed(plan, requests, fetcher, config, tools, isolated):
            outcome = _outcome(result, stored, config)
            shard.add(result.row, outcome, stored.data if isinstance(stored, StoredImage) else None)
            progress.status_counts[outcome.status.value] += 1
            progress.downloaded_bytes += len(result.body)
            on_progress(progress)
        return shard.commit()


def _processed(
    plan: ShardPlan,
    requests: list[FetchRequest],
    fetcher: Fetcher,
    config: BuildConfig,
    tools: WorkerTools,
    isolated: bool,
) -> Iterator[tuple[FetchResult, StoredImage | Refusal]]:
    """Each URL's result with the picture, or why there is none."""
    with IsolatedDecoder(config, tools.process_image) as child:
        for result in fetch_in_background(fetcher, requests, tools.baton, plan.shard):
            if not result.status.is_success:
                yield result, Refusal(result.status, result.message)
            elif isolated:
                yield result, child.process(result.body)
            else:
                with tools.watchdog:
                    stored = tools.process_image(result.body, config)
                yield result, stored


def _outcome(result: FetchResult, stored: StoredImage | Refusal, config: BuildConfig) -> RowOutcome:
    if isinstance(stored, Refusal):
        return RowOutcome(stored.status, stored.message)
    return RowOutcome(
        result.status,
        length=len(stored.data),
        width=stored.width,
        height=stored.height,
        original_width=stored.original_width,
        original_height=stored.original_height,
        exif=stored.exif,
        digest=hashlib.new(config.compute_hash, result.body).hexdigest() if config.compute_hash else None,
    )
