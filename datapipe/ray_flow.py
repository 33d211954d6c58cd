"""Maps the work of one shard over the plan with Ray Data: one task a shard, only counts come back."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from datapipe.build_record import BuildRecord, BuildView
from datapipe.config import BuildConfig
from datapipe.image import process_image
from datapipe.isolation import ProcessImage
from datapipe.marker import ShardStats
from datapipe.plan import Piece, ShardPlan
from datapipe.shard_worker import ShardWorker
from datapipe.shared_output import mark_of, require_same_folder
from infra.errors import StageFailed
from infra.place import this_place
from infra.remote_errors import unwrapped
from infra.repeat import Repeating
from infra.storage import storage_of

SHOW_EVERY_S = 1.0
# Shards that a process has begun at once: while the slow hosts of some are waited for, the next keeps the core busy.
# Long shards need fewer of them.
OVERLAPPED_ROWS = 30_000
MIN_OVERLAP, MAX_OVERLAP = 3, 8


def run_shard_tasks(
    plans: Sequence[ShardPlan],
    config: BuildConfig,
    on_look: Callable[[BuildView], None],
    process_image: ProcessImage = process_image,
) -> Iterator[ShardStats]:
    """Builds the planned shards and yields each one's counts as it is committed.

    `on_look` is called from another thread with what stands of the shards that are under way.
    Raises the task's own DiptychError, or StageFailed for what Ray could not get over by trying again.
    """
    be_quiet()
    # Softly, Ray has put it on another node, with which it died and forgot what was under way.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    record = ray.remote(BuildRecord).options(**options).remote()
    with (
        Repeating(partial(_show, record, on_look), every_s=SHOW_EVERY_S, name="build-progress"),
        explained_flow("The build"),
    ):
        mark = mark_of(storage_of(config.output))
        for row in _shards(plans, config, record, process_image, mark).iter_rows():
            record.forget.remote(row["shard"])
            yield ShardStats.from_json(row["shard"], row["stats"])


@contextlib.contextmanager
def explained_flow(what: str) -> Iterator[None]:
    """Raises the task's own DiptychError, or StageFailed, for what ends a flow over shards in the block."""
    try:
        yield
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise unwrapped(error) or StageFailed(
            f"{what} stopped: {_reason(error)}",
            "The shards that are finished are kept.",
            "Run the same command again: it goes on.",
        ) from error


def _shards(
    plans: Sequence[ShardPlan], config: BuildConfig, record: Any, process_image: ProcessImage, mark: bytes | None
) -> ray.data.Dataset:
    work = [{"plan": json.dumps(asdict(plan))} for plan in plans]
    processes = min(len(work), config.tasks or max(1, int(ray.cluster_resources().get("CPU", 1))))
    overlap = min(MAX_OVERLAP, max(MIN_OVERLAP, OVERLAPPED_ROWS // config.number_sample_per_shard))
    # No process may take more than its share of a short plan, however early it starts.
    overlap = min(overlap, -(-len(work) // processes))
    return ray.data.from_items(work, override_num_blocks=len(work)).map(
        _RayShardWorker,
        fn_constructor_args=(config, record, process_image, overlap, mark),
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(
            size=processes,
            max_tasks_in_flight_per_actor=overlap,
            max_concurrent_calls_per_actor=overlap,
            enable_true_multi_threading=True,
        ),
    )


def _reason(error: BaseException) -> str:
    """The innermost error in one line with its shard and node; its traceback stays with the error that is raised."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = inner
    where = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}{where}"


class _RayShardWorker:
    """A process of the pool; several of its calls run at once, in threads."""

    def __init__(
        self,
        config: BuildConfig,
        record: Any,
        process_image: ProcessImage,
        shards_at_once: int,
        mark: bytes | None,
    ) -> None:
        self._record = record
        self._output, self._mark = storage_of(config.output), mark
        self._worker = ShardWorker(
            config,
            process_image,
            on_begin=lambda shard: int(ray.get(record.begin.remote(shard, this_place()))),
            on_progress=lambda shard, progress: record.set.remote(shard, progress),
            shards_at_once=shards_at_once,
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # Here, and not at the start: errors of a call come out of the flow as they are.
        require_same_folder(self._output, self._mark)
        raw = json.loads(row["plan"])
        plan = ShardPlan(raw["shard"], tuple(Piece(**piece) for piece in raw["pieces"]))
        try:
            stats = self._worker.build(plan)
        except Exception as error:
            error.add_note(f"shard {plan.shard:05d}, on {this_place()}")
            raise
        return {"shard": plan.shard, "stats": stats.to_json()}


def _show(record: Any, on_look: Callable[[BuildView], None]) -> None:
    # The display is not worth a build: the build's own errors come out of its own calls.
    with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
        on_look(ray.get(record.look.remote(), timeout=10))


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
