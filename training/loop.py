"""The training itself, as each worker runs it: from the newest checkpoint to the last step."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import ray.train
import torch
from ray.train import Checkpoint

from infra.errors import CorruptData
from infra.storage import Storage
from training.certificate import certify_loss
from training.checkpoint import (
    CheckpointState,
    load_average,
    load_buffers,
    load_moments,
    load_parameters,
    newest_intact_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
    sweep_uncommitted,
)
from training.config import TrainConfig
from training.engine import Engine, initialize_deepspeed
from training.loader import TrainingLoader
from training.model import model_to_train, model_traits
from training.order import SampleOrder
from training.plan import Length, length_of
from training.records import CERTIFICATE_FILE, METRICS_FILE, StepMetrics
from training.schedule import Schedule, learning_rate
from training.selection import select
from training.step import StepPlace, micro_batch_count, split_micro_batches, train_step

ATTEMPTS_FOLDER = "attempts"
POINTER_FILE = "pointer.json"
LOADER_THREADS = 2  # at least: reading waits for the disk
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """This process's place in the training."""

    rank: int
    ranks: int
    use_gpu: bool


def run_worker(settings: dict[str, Any]) -> None:
    """Ray Train's entry on each worker. settings: `train` (the config as JSON), `run` (URL), `use_gpu`, `threads`."""
    config = TrainConfig.model_validate_json(settings["train"])
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), settings["use_gpu"])
    torch.set_num_threads(settings["threads"])
    initialize_deepspeed(worker.use_gpu)
    train_worker(config, Storage(settings["run"]), worker)


def train_worker(config: TrainConfig, run: Storage, worker: Worker) -> None:
    """Trains on this rank's part of every global batch. The process group is initialised."""
    selection = select(config.training_source())
    plan = length_of(config, len(selection))
    if worker.rank == 0:
        sweep_uncommitted(run)
    first, engine = _start_or_resume(config, plan, run, worker)
    _certify(config, engine, run, worker)
    attempt = _record_attempt(run, worker, first)
    traits = model_traits(config.model)
    schedule = Schedule(
        config.schedule, config.lr, plan.steps, plan.warmup, config.cooldown_steps, config.rsqrt_timescale
    )
    loader = TrainingLoader(
        selection,
        SampleOrder(len(selection), config.seed),
        traits,
        batch_size=config.global_batch_size,
        rank=worker.rank,
        ranks=worker.ranks,
        augment=config.augment,
        exclude=frozenset(config.exclude),
        threads=max(LOADER_THREADS, torch.get_num_threads()),
    )
    with loader, _metrics_writer(run, worker) as metrics:
        started = time.monotonic()
        for step, batch in enumerate(loader.batches(first, plan.steps), first):
            rate = learning_rate(step, schedule)
            done = train_step(
                engine,
                config.loss,
                traits,
                split_micro_batches(batch.images, batch.tokens, _micro_batches(config, worker)),
                rate,
                StepPlace(config.seed, step, worker.rank),
            )
            ended = time.monotonic()
            if metrics is not None:
                epoch = (step + 1) * config.global_batch_size / plan.samples
                speed = config.global_batch_size / (ended - started)
                record = StepMetrics(
                    step=step + 1,
                    loss=done.loss,
                    logit_scale=done.logit_scale,
                    lr=rate,
                    samples_per_s=speed,
                    epoch=epoch,
                    attempt=attempt,
                    time=time.time(),
                    replaced=batch.replaced,
                    gradient_norm=done.gradient_norm,
                )
                metrics.write(json.dumps(asdict(record)) + "\n")
            started = ended
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == plan.steps:
                _save(engine, config, plan, run, worker, step + 1, done.loss)
                started = time.monotonic()


def _start_or_resume(config: TrainConfig, plan: Length, run: Storage, worker: Worker) -> tuple[int, Engine]:
    """The engine as it is after the steps that are done, and their number."""
    path, problems = newest_intact_checkpoint(run)
    for problem in problems:
        log.warning(problem)
    model = model_to_train(config, resumes=path is not None)
    micro_batches = _micro_batches(config, worker)
    if path is None:
        return 0, Engine(model, config, ranks=worker.ranks, micro_batches=micro_batches)
    checkpoint = run.at(path)
    state = read_state(checkpoint)
    found = (state.model, state.loss, state.batch_size, state.samples)
    if found != (config.model, config.loss.value, config.global_batch_size, plan.samples):
        raise CorruptData(
            f"{checkpoint.url} is of {state.model} with the loss {state.loss}, {state.samples:,} samples in batches of "
            f"{state.batch_size:,}.",
            f"This training is of {config.model} with the loss {config.loss.value}, {plan.samples:,} samples in "
            f"batches of {config.global_batch_size:,}.",
            "Train under another name, or restore the dataset that the training began with.",
        )
    parameters = load_parameters(checkpoint)
    model.load_state_dict(parameters | load_buffers(checkpoint), strict=False)
    engine = Engine(model, config, ranks=worker.ranks, micro_batches=micro_batches)
    if config.ema_decay is not None:
        engine.restore_average(load_average(checkpoint) or parameters, state.step)
    engine.restore(parameters, load_moments(checkpoint), state.step)
    return state.step, engine


def _micro_batches(config: TrainConfig, worker: Worker) -> int:
    return micro_batch_count(-(-config.global_batch_size // worker.ranks), config.micro_batch_size)


def _certify(config: TrainConfig, engine: Engine, run: Storage, worker: Worker) -> None:
    """Checks the loss on these very workers, and writes down how exact it is."""
    certificate = certify_loss(config.loss, engine.device, engine.feature_dtype)
    if worker.rank == 0:
        run.write_bytes(CERTIFICATE_FILE, json.dumps({**asdict(certificate), "text": str(certificate)}).encode())


def _save(
    engine: Engine, config: TrainConfig, plan: Length, run: Storage, worker: Worker, step: int, loss: float
) -> None:
    """All ranks gather the state, rank 0 commits it, and Ray Train is told where it lies."""
    parameters, moments = {}, {}
    for name, master, both in engine.gather():
        # Gathered one by one: no rank but the first keeps more than one whole parameter.
        if worker.rank == 0:
            parameters[name] = master.cpu().clone()
            moments[name] = {key: tensor.cpu().clone() for key, tensor in both.items()}
    average = {}
    for name, weight in engine.gather_average():
        if worker.rank == 0:
            average[name] = weight.cpu().clone()
    path = None
    if worker.rank == 0:
        state = CheckpointState(
            step,
            config.model,
            config.loss.value,
            config.global_batch_size,
            plan.samples,
            config.seed,
            _settings(config),
        )
        buffers = {name: buffer.cpu().clone() for name, buffer in engine.buffers().items()}
        path = save_checkpoint(run, state, parameters, moments, buffers, average)
        prune_checkpoints(run, config.keep_checkpoints)
    _report(run, path, {"step": step, "loss": loss})


def _report(run: Storage, path: str | None, metrics: dict[str, float]) -> None:
    """Tells Ray Train of the checkpoint, by a pointer to it: what the run's folder holds is committed by itself."""
    if path is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, POINTER_FILE).write_text(json.dumps({"checkpoint": f"{run.url}/{path}"}))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def _settings(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)


def _record_attempt(run: Storage, worker: Worker, first: int) -> int:
    """Numbers this start of the worker group, from 1; rank 0 writes down when it was and where it began."""
    if worker.rank != 0:
        return 0
    attempt = len(run.list_files(ATTEMPTS_FOLDER)) + 1
    facts = {"attempt": attempt, "started": time.time(), "first_step": first, "workers": worker.ranks}
    run.write_bytes(f"{ATTEMPTS_FOLDER}/{attempt:04d}.json", json.dumps(facts).encode())
    return attempt


@contextmanager
def _metrics_writer(run: Storage, worker: Worker) -> Iterator[TextIO | None]:
    """Rank 0's metrics file, a line a step; a line that a kill cut in two is ended first."""
    if worker.rank != 0:
        yield None
        return
    path = run.local_path(METRICS_FILE)
    with path.open("a+b") as tail:
        if tail.seek(0, os.SEEK_END):
            tail.seek(-1, os.SEEK_END)
            if tail.read(1) != b"\n":
                tail.write(b"\n")
    with path.open("a", buffering=1, encoding="utf-8") as stream:
        yield stream
