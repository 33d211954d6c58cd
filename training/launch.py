"""Starts the training on a Ray cluster with Ray Train, shows its progress and brings its errors back."""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from datapipe.dataset import Dataset
from infra.cluster import Cluster
from infra.errors import ConfigError, StageFailed
from infra.progress import Progress
from infra.repeat import Repeating
from infra.storage import Storage
from training.board import start_board
from training.checkpoint import newest_checkpoint, step_of
from training.config import TrainConfig
from training.data_identity import data_identity
from training.deepspeed_settings import with_settings_inside
from training.evaluate import parts_to_score, require_score, validation_of
from training.model_names import check_hub_packages, check_model_name
from training.records import PLAN_FILE, newest_metrics
from training.reservations import free_reservations
from training.restarts import Restarts, steps_done
from training.room import require_room, uses_gpu
from training.trackers import check_trackers, open_trackers
from training.watch import TrainingWatch

WATCH_EVERY_S = 0.5
STOP_PATIENCE_S = 120.0  # for a checkpoint after SIGTERM
HEALTH_TIMEOUT_VARIABLE = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
# Read by libraries in the worker when they are loaded.
WORKER_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    # Large tensors on CPUs in large pages: in small ones, new memory costs more than normalising the pictures in it.
    "THP_MEM_ALLOC_ENABLE": "1",
}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training: its last checkpoint's path in the run's folder, its steps and its last loss."""

    checkpoint: str
    steps: int
    loss: float | None


def check_training(config: TrainConfig, *, dataset_is_ready: bool) -> None:
    """Finds what a user can have got wrong, before anything is started. Raises UserError."""
    check_model_name(config.model)
    check_hub_packages(config.model)
    check_trackers(config)
    with_settings_inside(config)
    if config.global_batch_size < config.max_workers:
        raise ConfigError(
            f"train.global_batch_size: got {config.global_batch_size} for {config.max_workers} workers.",
            "Each worker takes at least one pair of every batch.",
            "Raise train.global_batch_size or lower train.workers.",
        )
    _require_whole_micro_batches(config)
    _require_full_micro_batches(config)
    if config.validate_every is not None:
        validation, held_out = validation_of(config)
        parts_to_score(validation, held_out)
        require_score(config.best_score, validation)
    if dataset_is_ready:
        for source in config.training_sources():
            Dataset.open(source.path)


def _require_whole_micro_batches(config: TrainConfig) -> None:
    """Micro-batches of one size on every worker: the statistics of one with few rows would be noise."""
    if config.micro_batch_size is None or not isinstance(config.workers, int):
        return
    together = config.workers * config.micro_batch_size
    batch = config.global_batch_size
    if batch % together:
        near = [size for size in (batch // together * together, -(-batch // together) * together) if size]
        raise ConfigError(
            f"train.global_batch_size: got {batch:,}, which {config.workers} workers × micro-batches of "
            f"{config.micro_batch_size:,} ({together:,}) do not divide.",
            f"The nearest that fit are {' and '.join(f'{size:,}' for size in near)}.",
            "Change train.global_batch_size, train.micro_batch_size or train.workers.",
        )


def _require_full_micro_batches(config: TrainConfig) -> None:
    """No worker may get an empty micro-batch, whatever number of a range they are."""
    for workers in range(config.min_workers, config.max_workers + 1):
        fewest, most = config.global_batch_size // workers, -(-config.global_batch_size // workers)
        micro_batches = -(-most // (config.micro_batch_size or most))
        if fewest < micro_batches:
            raise ConfigError(
                f"train.micro_batch_size: got {config.micro_batch_size}; of {workers} workers some have {fewest:,} "
                f"and others {most:,} pairs of a global batch of {config.global_batch_size:,}, "
                f"in {micro_batches:,} pieces.",
                "Each worker has as many micro-batches as the others, with at least one pair in each.",
                "Raise train.micro_batch_size, or change train.global_batch_size or train.workers.",
            )


def train(
    config: TrainConfig,
    run: Storage,
    progress: Progress,
    cluster: Cluster,
    *,
    fence: str | None = None,
    tell: Callable[[bool, str], None] = lambda *_: None,
) -> TrainResult:
    """Trains to the last step, from where the run's checkpoints leave off.

    `fence`: a file of the run's folder; once it is there, no checkpoint is committed any more. `tell` hears when the
    workers are started again (True, and why), and when they get on (False).

    Raises UserError for a config that doesn't fit the data or the cluster, StageFailed when the training failed
    more often than `max_restarts`.
    """
    from training.exclusion import unknown_keys
    from training.model import check_tokenizer
    from training.plan import plan_training, worker_memory
    from training.samples import select_training

    # Fails here, and not in every worker, when it can't be had.
    check_tokenizer(config.model)
    data = data_identity(config.training_sources())
    samples, order = select_training(config)
    plan = plan_training(config, order.places, worker_memory(config))
    assert plan.steps is not None
    done = steps_done(run, plan.steps)
    progress.begin("train", total=plan.steps, unit="steps", done=done)
    if done < plan.steps:
        use_gpu = uses_gpu(config, cluster)
        require_room(config, cluster, use_gpu)
        run.write_bytes(PLAN_FILE, json.dumps(plan.facts(), indent=1).encode())
        for line in [*plan.lines(), "each worker on a GPU" if use_gpu else "each worker on CPU cores"]:
            progress.note(f"train  {line}")
        for key in unknown_keys(samples, config.exclude):
            progress.note(f"train  train.exclude: no dataset of the training has the key {key!r}")
        progress.set_detail("starting the workers")
        board = start_board()
        with open_trackers(config, run, lambda text: progress.note(f"train  {text}")) as trackers:
            watch = TrainingWatch(board, run, progress, trackers)
            restarts = Restarts(config, run, plan.steps, watch, tell)
            with Repeating(restarts.look, every_s=WATCH_EVERY_S, name="train-progress"):
                while (error := _fit(config, run, cluster, board, data, use_gpu=use_gpu, fence=fence)) is not None:
                    progress.note(f"train  {restarts.next(error)}")
            watch.look()
        if watch.failure is not None:
            raise watch.failure
    result = _result(run, plan.steps)
    progress.update(result.steps)
    last = "" if result.loss is None else f", loss {result.loss:.4f}"
    progress.end(f"{result.steps:,} steps over {plan.samples:,} samples{last}")
    return result


def _fit(
    config: TrainConfig,
    run: Storage,
    cluster: Cluster,
    board: Any,
    data: str | None,
    *,
    use_gpu: bool,
    fence: str | None,
) -> Exception | None:
    """One group of workers, to the training's end or to its failure, which is returned."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from training.picture_constants import settle_pictures
    from training.ray_callbacks import CatchSigterm, SaveBeforeResize, TellPlaces
    from training.sight import show_run
    from training.worker import run_worker, settings_for

    share = max(1, cluster.cpus // config.max_workers)
    # Of a node with GPUs, which may be yet to come, each worker takes its share by itself.
    threads = config.threads_per_worker or (None if use_gpu else share)
    cpus = min(threads or share, share)  # no more than is used, so that other runs find room on the same cluster
    # Ray Train's controller takes it from the driver's environment.
    os.environ[HEALTH_TIMEOUT_VARIABLE] = str(config.hang_timeout_s)
    settled = settle_pictures(with_settings_inside(config), run)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config=settings_for(
            settled,
            run,
            use_gpu=use_gpu,
            threads=threads,
            board=board,
            data=data,
            fence=fence,
            sight=show_run(run),
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=round(config.group_timeout_s)),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            elastic_resize_monitor_interval_s=config.resize_check_s,
            use_gpu=use_gpu,
            # A GPU spreads the workers by itself; cores of nodes without one are none that a worker could have.
            resources_per_worker={"CPU": 1, "GPU": 1} if use_gpu else {"CPU": cpus},
        ),
        run_config=RunConfig(
            # A name of its own for each start: what to resume from is read from our checkpoints alone.
            name=f"start-{time.time_ns()}",
            # Nothing of ours is in it, so that no storage but the driver's own disk is needed.
            storage_path=str(cluster.scratch),
            failure_config=FailureConfig(max_failures=0),  # each failure comes back here: see Restarts
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
            callbacks=[CatchSigterm(), SaveBeforeResize(), TellPlaces(board)],
        ),
    )
    try:
        _fit_in_a_thread(trainer.fit, lambda: ray.get(board.stop.remote()))
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        failure: Exception = error
        free_reservations()
        return failure
    return None


def _fit_in_a_thread(fit: Callable[[], object], stop: Callable[[], object]) -> None:
    """Keeps the main thread free for signals, which Ray Train would take for itself and end as a failure.

    SIGTERM, as before a preemption, lets the training take a checkpoint first. After Ctrl-C the thread is left behind:
    it ends with the cluster.
    """
    result: Future[object] = Future()

    def run() -> None:
        try:
            result.set_result(fit())
        except BaseException as error:  # noqa: BLE001 - the thread's border: raised again by the one who waits
            result.set_exception(error)

    threading.Thread(target=run, name="train", daemon=True).start()
    try:
        while not result.done():
            wait([result], timeout=WATCH_EVERY_S)
    except SystemExit:
        stop()
        wait([result], timeout=STOP_PATIENCE_S)
        raise
    result.result()


def _result(run: Storage, steps: int) -> TrainResult:
    path = newest_checkpoint(run)
    done = step_of(path) if path else 0
    if path is None or done < steps:
        raise StageFailed(
            f"The training ended after step {done:,} of {steps:,}, without saying why.",
            "Its checkpoints are kept.",
            "Read the workers' logs; run the same command again and it goes on.",
        )
    metrics = newest_metrics(run)
    return TrainResult(path, done, metrics.loss if metrics else None)
