"""Maps the work of one shard over the plan with Ray Data: one task a shard, only counts come back."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import ray.data

from datapipe.config import BuildConfig
from datapipe.plan import Piece, ShardPlan
from datapipe.shard import ShardStats
from datapipe.shard_task import build_shard
from infra.errors import StageFailed
from infra.remote_errors import unwrapped
from infra.repeat import Repeating

REPORT_EVERY_S = 0.5


def run_shard_tasks(
    plans: Sequence[ShardPlan], config: BuildConfig, on_rows: Callable[[int], None]
) -> Iterator[ShardStats]:
    """Builds the planned shards and yields each one's counts as it is committed.

    `on_rows` is called from another thread with the rows of these shards dealt with so far.
    Raises the task's own DiptychError, or StageFailed for what Ray could not get over by trying again.
    """
    _be_quiet()
    counter = ray.remote(_RowCounter).options(num_cpus=0).remote()
    work = [{"plan": _plan_to_json(plan)} for plan in plans]
    tasks = config.tasks or max(1, int(ray.cluster_resources().get("CPU", 1)))
    shards = ray.data.from_items(work, override_num_blocks=len(work)).map(
        _run_one, fn_args=(config, counter), num_cpus=1, compute=ray.data.TaskPoolStrategy(size=tasks)
    )
    with Repeating(partial(_show_rows, counter, on_rows), every_s=REPORT_EVERY_S, name="build-progress"):
        try:
            for row in shards.iter_rows():
                yield ShardStats.from_json(row["shard"], row["stats"])
        except (ray.exceptions.RayError, RuntimeError) as error:
            raise unwrapped(error) or StageFailed(
                f"The build stopped: {_reason(error)}",
                "The shards that are finished are kept.",
                "Run the same command again: it goes on.",
            ) from error


def _reason(error: BaseException) -> str:
    """The innermost error in one line; its traceback stays with the error that is raised."""
    while isinstance(inner := getattr(error, "cause", None) or error.__cause__, BaseException):
        error = inner
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _run_one(row: dict[str, Any], config: BuildConfig, counter: Any) -> dict[str, Any]:
    plan = _plan_from_json(row["plan"])
    last = 0.0

    def report(rows: int) -> None:
        nonlocal last
        if rows == plan.rows or time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            counter.set.remote(plan.shard, rows)

    stats = build_shard(plan, config, report)
    return {"shard": plan.shard, "stats": stats.to_json()}


class _RowCounter:
    """Adds up the rows of all tasks; a task that is tried again begins its shard's count anew."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}

    def set(self, shard: int, rows: int) -> None:
        self._rows[shard] = rows

    def total(self) -> int:
        return sum(self._rows.values())


def _show_rows(counter: Any, on_rows: Callable[[int], None]) -> None:
    # The display is not worth a build: the build's own errors come out of its own calls.
    with contextlib.suppress(ray.exceptions.RayError, RuntimeError):
        on_rows(ray.get(counter.total.remote(), timeout=10))


def _be_quiet() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # Ray Data's own wrapper loses the cause between processes
    logger = logging.getLogger("ray.data")
    logger.setLevel(logging.INFO)
    for handler in logger.handlers[:]:
        if isinstance(handler, logging.StreamHandler):  # the one for the terminal; the log file's stays
            logger.removeHandler(handler)


def _plan_to_json(plan: ShardPlan) -> str:
    return json.dumps(asdict(plan))


def _plan_from_json(text: str) -> ShardPlan:
    raw = json.loads(text)
    return ShardPlan(raw["shard"], tuple(Piece(**piece) for piece in raw["pieces"]))
