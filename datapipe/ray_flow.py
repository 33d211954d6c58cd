"""Maps the work of one shard over the plan with Ray Data: one task a shard, only counts come back."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datapipe.config import BuildConfig
from datapipe.image import process_image
from datapipe.isolation import ProcessImage
from datapipe.marker import ShardStats
from datapipe.plan import Piece, ShardPlan
from datapipe.shard_task import ShardProgress
from datapipe.shard_worker import ShardWorker
from infra.errors import StageFailed
from infra.remote_errors import unwrapped
from infra.repeat import Repeating

SHOW_EVERY_S = 1.0
# Shards that a process has begun at once: while the slow hosts of some are waited for, the next keeps the core busy.
# Long shards need fewer of them.
OVERLAPPED_ROWS = 30_000
MIN_OVERLAP, MAX_OVERLAP = 3, 8


def run_shard_tasks(
    plans: Sequence[ShardPlan],
    config: BuildConfig,
    on_progress: Callable[[ShardProgress], None],
    process_image: ProcessImage = process_image,
) -> Iterator[ShardStats]:
    """Builds the planned shards and yields each one's counts as it is committed.

    `on_progress` is called from another thread with the sum over the shards that are under way.
    Raises the task's own DiptychError, or StageFailed for what Ray could not get over by trying again.
    """
    be_quiet()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    record = ray.remote(_BuildRecord).options(**options).remote()
    with Repeating(partial(_show, record, on_progress), every_s=SHOW_EVERY_S, name="build-progress"):
        try:
            for row in _shards(plans, config, record, process_image).iter_rows():
                record.forget.remote(row["shard"])
                yield ShardStats.from_json(row["shard"], row["stats"])
        except (ray.exceptions.RayError, RuntimeError) as error:
            raise unwrapped(error) or StageFailed(
                f"The build stopped: {reason_of(error)}",
                "The shards that are finished are kept.",
                "Run the same command again: it goes on.",
            ) from error


def _shards(
    plans: Sequence[ShardPlan], config: BuildConfig, record: Any, process_image: ProcessImage
) -> ray.data.Dataset:
    work = [{"plan": json.dumps(asdict(plan))} for plan in plans]
    processes = min(len(work), config.tasks or max(1, int(ray.cluster_resources().get("CPU", 1))))
    overlap = min(MAX_OVERLAP, max(MIN_OVERLAP, OVERLAPPED_ROWS // config.number_sample_per_shard))
    # No process may take more than its share of a short plan, however early it starts.
    overlap = min(overlap, -(-len(work) // processes))
    return ray.data.from_items(work, override_num_blocks=len(work)).map(
        _RayShardWorker,
        fn_constructor_args=(config, record, process_image),
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(
            size=processes,
            max_tasks_in_flight_per_actor=overlap,
            max_concurrent_calls_per_actor=overlap,
            enable_true_multi_threading=True,
        ),
    )


def reason_of(error: BaseException) -> str:
    """The innermost error in one line; its traceback stays with the error that is raised."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = inner
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class _RayShardWorker:
    """A process of the pool; several of its calls run at once, in threads."""

    def __init__(self, config: BuildConfig, record: Any, process_image: ProcessImage) -> None:
        self._record = record
        self._worker = ShardWorker(
            config,
            process_image,
            on_begin=lambda shard: int(ray.get(record.begin.remote(shard))),
            on_progress=lambda shard, progress: record.set.remote(shard, progress),
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        raw = json.loads(row["plan"])
        plan = ShardPlan(raw["shard"], tuple(Piece(**piece) for piece in raw["pieces"]))
        stats = self._worker.build(plan)
        return {"shard": plan.shard, "stats": stats.to_json()}


class _BuildRecord:
    """Adds up what the shards under way have done; one that is tried again begins its counts anew.

    When its node dies it begins anew itself: the display stands lower for a moment, and crashes are forgotten.
    """

    def __init__(self) -> None:
        self._progress: dict[int, ShardProgress] = {}
        self._begun = Counter[int]()
        self._downloaded_bytes = 0

    def begin(self, shard: int) -> int:
        """How often the shard has been begun before: each time its process died, for an error ends the build."""
        before = self._begun[shard]
        self._begun[shard] += 1
        return before

    def set(self, shard: int, progress: ShardProgress) -> None:
        self._progress[shard] = progress

    def forget(self, shard: int) -> None:
        """The shard is committed: its own counts stand for it now. Its bytes stay in the sum."""
        done = self._progress.pop(shard, None)
        self._downloaded_bytes += done.downloaded_bytes if done else 0

    def total(self) -> ShardProgress:
        total = ShardProgress(downloaded_bytes=self._downloaded_bytes)
        for progress in self._progress.values():
            total.status_counts.update(progress.status_counts)
            total.downloaded_bytes += progress.downloaded_bytes
        return total


def _show(record: Any, on_progress: Callable[[ShardProgress], None]) -> None:
    # The display is not worth a build: the build's own errors come out of its own calls.
    with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
        on_progress(ray.get(record.total.remote(), timeout=10))


def be_quiet() -> None:
    """Keeps Ray Data's own display and log off the terminal."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray Data's own wrapper loses the cause between processes
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.INFO)
    for handler in logger.handlers[:]:
        if isinstance(handler, logging.StreamHandler):  # the one for the terminal; the log file's stays
            logger.removeHandler(handler)
