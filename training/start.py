"""Begins a training, or goes on from the newest checkpoint whose every byte is right."""

import logging
from collections.abc import Callable

import torch
import torch.distributed as dist

from infra.errors import CorruptData
from infra.storage import Storage
from training.agreement import all_of, rank_and_ranks
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
from training.node_copy import on_this_node
from training.plan import Length
from training.step import micro_batch_count

RESTORED = (TensorKind.PARAMETERS, TensorKind.BUFFERS, TensorKind.AVERAGE)

log = logging.getLogger(__name__)


def start_or_resume(
    config: TrainConfig, plan: Length, run: Storage, say: Callable[[str], None]
) -> tuple[CheckpointState | None, Engine]:
    """The engine as it is after the steps that are done, and the checkpoint's state; every rank calls it at once.

    Raises CorruptData for a checkpoint of another training.
    """
    path = agreed_checkpoint(run, say)
    model = model_to_train(config, resumes=path is not None)
    _, ranks = rank_and_ranks()
    micro_batches = micro_batch_count(-(-config.global_batch_size // ranks), config.micro_batch_size)
    if path is None:
        return None, Engine(model, config, ranks=ranks, micro_batches=micro_batches)
    checkpoint = run.at(path)
    state = read_state(checkpoint)
    _require_same_training(config, plan, checkpoint, state)
    with on_this_node(checkpoint) as copy:
        parameters, buffers, average = (load_tensors(copy, kind) for kind in RESTORED)
        moments = load_moments(copy)
    model.load_state_dict(parameters | buffers, strict=False)
    engine = Engine(model, config, ranks=ranks, micro_batches=micro_batches)
    updates = state.step - state.skipped
    if config.ema_decay is not None:
        engine.restore_average(average or parameters, updates)
    engine.restore(parameters, moments, updates)
    return state, engine


def agreed_checkpoint(run: Storage, say: Callable[[str], None]) -> str | None:
    """The newest checkpoint that is whole; each rank hashes its share of the files. Every rank calls it at once.

    None when there is none at all. Raises CorruptData when there are some and none is whole: to begin anew is not what
    was asked for.
    """
    rank, ranks = rank_and_ranks()
    # One listing for all: another rank's could be of a moment later.
    committed = _agreed([committed_checkpoints(run)] if rank == 0 else [])[0]
    damaged: list[str] = []
    for path in reversed(committed):
        checkpoint = run.at(path)
        own = size_problem(checkpoint) or hash_problem(checkpoint, rank, ranks)
        problems = [problem for problem in all_of(own) if problem]
        if not problems:
            if rank == 0:
                # Or they would count as newer ones, and crowd this one out.
                for bad in damaged:
                    set_aside(run, bad)
            return str(path)
        damaged.append(path)
        log.warning("%s is passed over: %s", path, problems[0])
        if rank == 0:
            say(f"{path} is passed over: {problems[0]}")
    if committed:
        raise CorruptData(
            f"{run.url} has {len(committed)} checkpoints and none is whole: the training would begin at step 0.",
            "A training goes on from a checkpoint.",
            f"`diptych verify {run.url}` names what is wrong; restore the files, or train under another name.",
        )
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


def _agreed(values: list[list[str]]) -> list[list[str]]:
    if rank_and_ranks()[1] == 1:
        return values
    shared = values or [[]]
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else None
    dist.broadcast_object_list(shared, src=0, device=device)
    return shared
