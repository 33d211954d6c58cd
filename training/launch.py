"""Starts the training on a Ray cluster with Ray Train, shows its progress and brings its errors back."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from datapipe.dataset import Dataset
from infra.cluster import Cluster
from infra.errors import ConfigError, StageFailed
from infra.progress import Progress
from infra.remote_errors import unwrapped
from infra.repeat import Repeating
from infra.storage import Storage
from training.checkpoint import newest_intact_checkpoint, read_state
from training.config import TrainConfig
from training.model_names import check_model_name
from training.records import CERTIFICATE_FILE, METRICS_FILE, PLAN_FILE, StepMetrics, parse_metrics, read_metrics

RAY_TRAIN_FOLDER = "ray"
WATCH_EVERY_S = 0.5
# Read by libraries in the worker when they are imported.
WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training: its last checkpoint's path in the run's folder, its steps and its last loss."""

    checkpoint: str
    steps: int
    loss: float | None


def check_training(config: TrainConfig, *, dataset_is_ready: bool) -> None:
    """Finds what a user can have got wrong, before anything is started. Raises UserError."""
    check_model_name(config.model)
    if config.global_batch_size < config.workers:
        raise ConfigError(
            f"train.global_batch_size: got {config.global_batch_size} for {config.workers} workers.",
            "Each worker takes at least one pair of every batch.",
            "Raise train.global_batch_size or lower train.workers.",
        )
    _require_whole_micro_batches(config)
    if dataset_is_ready:
        Dataset.open(config.training_source().path)


def _require_whole_micro_batches(config: TrainConfig) -> None:
    """Micro-batches of one size on every worker: the statistics of one with few rows would be noise."""
    if config.micro_batch_size is None:
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


def train(config: TrainConfig, run: Storage, progress: Progress, cluster: Cluster) -> TrainResult:
    """Trains to the last step, from where the run's checkpoints leave off.

    Raises UserError for a config that doesn't fit the data or the cluster, StageFailed when the training failed
    more often than `max_restarts`.
    """
    from training.model import Tokenizer
    from training.plan import plan_training, worker_memory
    from training.selection import select

    # Fails here, and not in every worker, when it can't be had.
    Tokenizer(config.model)
    selection = select(config.training_source())
    plan = plan_training(config, len(selection), worker_memory(config))
    assert plan.steps is not None
    done = _steps_done(run, progress)
    progress.begin("train", total=plan.steps, unit="steps", done=done)
    if done < plan.steps:
        run.write_bytes(PLAN_FILE, json.dumps(plan.facts(), indent=1).encode())
        for line in plan.lines():
            progress.note(f"train  {line}")
        use_gpu = _use_gpu(config, cluster)
        _require_room(config, cluster, use_gpu)
        progress.set_detail("starting the workers")
        with Repeating(_MetricsWatch(run, progress).look, every_s=WATCH_EVERY_S, name="train-progress"):
            _fit(config, run, cluster, use_gpu=use_gpu)
    result = _result(run)
    progress.update(result.steps)
    last = "" if result.loss is None else f", loss {result.loss:.4f}"
    progress.end(f"{result.steps:,} steps over {plan.samples:,} samples{last}")
    return result


def _fit(config: TrainConfig, run: Storage, cluster: Cluster, *, use_gpu: bool) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from training.loop import run_worker

    cpus = max(1, cluster.cpus // config.workers)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={
            "train": config.model_dump_json(),
            "run": run.url,
            "use_gpu": use_gpu,
            "threads": config.threads_per_worker or cpus,
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            # A name of its own for each start: what to resume from is read from our checkpoints alone.
            name=f"start-{time.time_ns()}",
            storage_path=str(run.local_path(RAY_TRAIN_FOLDER)),
            failure_config=FailureConfig(max_failures=config.max_restarts),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},
        ),
    )
    try:
        _fit_in_a_thread(trainer.fit)
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise unwrapped(error) or StageFailed(
            f"The training stopped: {_last_line(error)}",
            f"It was started again {config.max_restarts} times (train.max_restarts). Its checkpoints are kept.",
            "Read the workers' logs; run the same command again and it goes on.",
        ) from error


def _fit_in_a_thread(fit: Callable[[], object]) -> None:
    """Keeps the main thread free for Ctrl-C, which Ray Train would take for itself and end as a failure.

    After Ctrl-C the thread is left behind: it ends with the cluster.
    """
    result: Future[object] = Future()

    def run() -> None:
        try:
            result.set_result(fit())
        except BaseException as error:  # noqa: BLE001 - the thread's border: raised again by the one who waits
            result.set_exception(error)

    threading.Thread(target=run, name="train", daemon=True).start()
    while not result.done():
        wait([result], timeout=WATCH_EVERY_S)
    result.result()


def _use_gpu(config: TrainConfig, cluster: Cluster) -> bool:
    return cluster.gpus >= config.workers if config.use_gpu is None else config.use_gpu


def _require_room(config: TrainConfig, cluster: Cluster, use_gpu: bool) -> None:
    """Ray would wait for ever for workers that don't fit."""
    kind, has = ("GPUs", cluster.gpus) if use_gpu else ("CPU cores", cluster.cpus)
    if config.workers > has:
        raise ConfigError(
            f"train.workers: got {config.workers}; the cluster has {has} {kind}.",
            "Each worker takes one.",
            "Lower train.workers or join a larger cluster with --address.",
        )


def _steps_done(run: Storage, progress: Progress) -> int:
    path, problems = newest_intact_checkpoint(run)
    for problem in problems:
        progress.note(f"train  {problem}")
    return read_state(run.at(path)).step if path else 0


def _result(run: Storage) -> TrainResult:
    path, _ = newest_intact_checkpoint(run)
    if path is None:
        raise StageFailed("The training ended without a checkpoint.", "", "Read the workers' logs.")
    metrics = read_metrics(run)
    return TrainResult(path, read_state(run.at(path)).step, metrics[-1].loss if metrics else None)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


class _MetricsWatch:
    """Shows what the run's metrics file has got since the last look."""

    def __init__(self, run: Storage, progress: Progress) -> None:
        self._run = run
        self._progress = progress
        self._attempt: int | None = None
        self._size = run.size_bytes(METRICS_FILE) or 0

    def look(self) -> None:
        """Reads on to the last whole line; what follows it is read at the next look."""
        size = self._run.size_bytes(METRICS_FILE) or 0
        if size == self._size:
            return
        added = self._run.read_range(METRICS_FILE, self._size, size - self._size)
        whole = added[: added.rfind(b"\n") + 1]
        self._size += len(whole)
        for metrics in parse_metrics(whole):
            self._show(metrics)

    def _show(self, last: StepMetrics) -> None:
        if last.attempt != self._attempt:
            if self._attempt is None:
                self._progress.note(f"train  {json.loads(self._run.read_bytes(CERTIFICATE_FILE))['text']}")
            else:
                self._progress.note(f"train  a worker died; resumed at step {last.step:,} from the last checkpoint")
            self._attempt = last.attempt
            self._progress.restart_rate(last.step)
        detail = f"loss {last.loss:.3f} · scale {last.logit_scale:.1f} · {last.samples_per_s:,.0f} pairs/s"
        self._progress.update(last.step, detail)
