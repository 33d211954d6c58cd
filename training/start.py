"""Begins a training, or goes on from the newest checkpoint whose every byte is right."""

import logging
from collections.abc import Callable

import torch
import torch.distributed as dist

from infra.errors import CorruptData
from infra.storage import Storage
from training.checkpoint import (
    CheckpointState,
    TensorKind,
    committed_checkpoints,
    hash_problem,
    load_moments,
    load_tensors,
    read_state,
    set_aside,
    size_problem,
)
from training.config import TrainConfig
from training.engine import Engine
from training.model import model_to_train
from training.plan import Length
from training.step import micro_batch_count

log = logging.getLogger(__name__)


def start_or_resume(
    config: TrainConfig, plan: Length, run: Storage, say: Callable[[str], None]
) -> tuple[CheckpointState | None, Engine]:
    """The engine as it is after the steps that are done, and the checkpoint's state; every rank calls it at once.

    Raises CorruptData for a checkpoint of another training.
    """
    path = agreed_checkpoint(run, say)
    model = model_to_train(config, resumes=path is not None)
    ranks = _ranks()
    micro_batches = micro_batch_count(-(-config.global_batch_size // ranks), config.micro_batch_size)
    if path is None:
        return None, Engine(model, config, ranks=ranks, micro_batches=micro_batches)
    checkpoint = run.at(path)
    state = read_state(checkpoint)
    _require_same_training(config, plan, checkpoint, state)
    parameters = load_tensors(checkpoint, TensorKind.PARAMETERS)
    model.load_state_dict(parameters | load_tensors(checkpoint, TensorKind.BUFFERS), strict=False)
    engine = Engine(model, config, ranks=ranks, micro_batches=micro_batches)
    updates = state.step - state.skipped
    if config.ema_decay is not None:
        engine.restore_average(load_tensors(checkpoint, TensorKind.AVERAGE) or parameters, updates)
    engine.restore(parameters, load_moments(checkpoint), updates)
    return state, engine


def agreed_checkpoint(run: Storage, say: Callable[[str], None]) -> str | None:
    """The newest checkpoint that is whole; each rank hashes its share of the files. Every rank calls it at once."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    # One listing for all: another rank's could be of a moment later.
    for path in reversed(_agreed([committed_checkpoints(run)] if rank == 0 else [])[0]):
        checkpoint = run.at(path)
        own = size_problem(checkpoint) or hash_problem(checkpoint, rank, ranks)
        problems = [problem for problem in _all_of(own) if problem]
        if not problems:
            return str(path)
        log.warning("%s is passed over: %s", path, problems[0])
        if rank == 0:
            say(f"{path} is passed over: {problems[0]}")
            set_aside(run, path)
    return None


def _require_same_training(config: TrainConfig, plan: Length, checkpoint: Storage, state: CheckpointState) -> None:
    found = (state.model, state.loss, state.batch_size, state.samples)
    if found != (config.model, config.loss.value, config.global_batch_size, plan.samples):
        raise CorruptData(
            f"{checkpoint.url} is of {state.model} with the loss {state.loss}, {state.samples:,} samples in batches of "
            f"{state.batch_size:,}.",
            f"This training is of {config.model} with the loss {config.loss.value}, {plan.samples:,} samples in "
            f"batches of {config.global_batch_size:,}.",
            "Train under another name, or restore the dataset that the training began with.",
        )


def _ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _all_of(value: str | None) -> list[str | None]:
    if _ranks() == 1:
        return [value]
    values: list[str | None] = [None] * _ranks()
    dist.all_gather_object(values, value)
    return values


def _agreed(values: list[list[str]]) -> list[list[str]]:
    if _ranks() == 1:
        return values
    shared = values or [[]]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None
    dist.broadcast_object_list(shared, src=0, device=device)
    return shared
