"""One process that builds shards, several at a time, so that none waits for the slow hosts of another."""

import math
import threading
import time
from collections.abc import Callable

import cv2

from datapipe.backlog import WAITING_SHARE
from datapipe.config import BuildConfig
from datapipe.isolation import ProcessImage
from datapipe.marker import ShardStats
from datapipe.plan import ShardPlan
from datapipe.shard_task import ShardProgress, WorkerTools, build_shard
from infra.open_files import allowed_open_files, require_open_files

REPORT_EVERY_S = 1.0
OTHER_OPEN_FILES = 256  # Ray's and the shards' own
# A request under way has a socket and, when large, a file for its body. libcurl keeps as many idle sockets at most, and
# bodies that wait for the decoder have a file each.
OPEN_FILES_PER_CONNECTION = 3 + WAITING_SHARE
CRASHES_BEFORE_ISOLATION = 2  # one may be a machine's; with the second, a picture is suspected


class ShardWorker:
    """Builds the shards it is given; `build` may be called from so many threads as there are `shards_at_once`.

    `on_begin` is told the shard and says how often its process has died; `on_progress` hears about once a second.
    """

    def __init__(
        self,
        config: BuildConfig,
        process_image: ProcessImage,
        on_begin: Callable[[int], int],
        on_progress: Callable[[int, ShardProgress], object],
        shards_at_once: int,
    ) -> None:
        cv2.setNumThreads(1)  # one process a core
        self._config = config
        self._on_begin = on_begin
        self._on_progress = on_progress
        self._open_files = math.ceil(config.connections * OPEN_FILES_PER_CONNECTION)
        most = (allowed_open_files() - OTHER_OPEN_FILES) / self._open_files
        self._turns = threading.Semaphore(max(1, int(min(shards_at_once, most))))
        self._tools = WorkerTools(process_image=process_image)

    def build(self, plan: ShardPlan) -> ShardStats:
        """Downloads, processes, writes and commits the shard; waits until the files may be open that it needs.

        Raises MachineError where too few may be open for any.
        """
        require_open_files(self._open_files + OTHER_OPEN_FILES)
        with self._turns:
            return self._build(plan)

    def _build(self, plan: ShardPlan) -> ShardStats:
        crashes = self._on_begin(plan.shard)
        last = 0.0

        def report(progress: ShardProgress) -> None:
            nonlocal last
            if progress.rows == plan.rows or time.monotonic() - last >= REPORT_EVERY_S:
                last = time.monotonic()
                self._on_progress(plan.shard, progress)

        isolated = crashes >= CRASHES_BEFORE_ISOLATION
        return build_shard(plan, self._config, report, self._tools, isolated=isolated)
