"""One worker of a training under Ray Train: its environment, its place, and the way to the training itself."""

import json
import os
import random
import socket
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import ray.train
import torch

from infra.patience import SEEN_WITHIN_S
from infra.place import this_place
from infra.storage import Storage
from training.bad_steps import TrainingStopped
from training.communication import measure_communication
from training.config import TrainConfig
from training.engine import initialize_deepspeed
from training.loop import Worker, train_worker
from training.precision import multiply_in_full_precision
from training.preemption import heeding_sigterm
from training.sight import require_sight


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the driver tells each worker. Cheap to pickle.

    threads: None for this worker's share of its node's cores. board: the actor that ranks report to. data: the identity
    of what is trained on. fence: see `Worker`. sight: the driver's word in the run's folder, see `show_run`.
    """

    config: str
    run: str
    use_gpu: bool
    threads: int | None
    board: Any
    data: str | None
    fence: str | None = None
    sight: str | None = None

    @classmethod
    def of(cls, raw: dict[str, Any]) -> "WorkerSettings":
        """The settings as Ray Train hands them over."""
        return cls(**raw)


def run_worker(raw: dict[str, Any]) -> None:
    """Ray Train's entry on each worker; raw: the fields of WorkerSettings."""
    settings = WorkerSettings.of(raw)
    config = TrainConfig.model_validate_json(settings.config)
    context = ray.train.get_context()
    worker = Worker(
        context.get_world_rank(),
        context.get_world_size(),
        settings.use_gpu,
        settings.data,
        settings.board,
        settings.fence,
    )
    prepare_process(config, settings, context.get_local_rank(), context.get_local_world_size())
    try:
        with heeding_sigterm():
            run = Storage(settings.run)
            # Ends while the others still wait for this rank.
            patience_s = min(SEEN_WITHIN_S, config.group_timeout_s / 2)
            require_sight(run, settings.sight, this_place().node_words, patience_s=patience_s)
            train_worker(config, run, worker)
    except TrainingStopped as error:
        # Ray Train would start the group again, only to come to the same step.
        if worker.rank == 0:
            ray.get(settings.board.fail.remote(error))
    except Exception as error:
        error.add_note(f"on {socket.gethostname()}, rank {worker.rank}")
        raise


def prepare_process(config: TrainConfig, settings: WorkerSettings, local_rank: int, local_ranks: int) -> None:
    """Sets what belongs to the process: threads, cores, seeds, and DeepSpeed on the process group."""
    if config.pin_cpus:
        # Of this thread; those that it starts inherit it.
        os.sched_setaffinity(0, cores_of(local_rank, local_ranks, sorted(os.sched_getaffinity(0))))
    torch.set_num_threads(settings.threads or max(1, _cores_of_this_node() // local_ranks))
    cv2.setNumThreads(1)  # the loader has threads of its own
    multiply_in_full_precision()
    seed_process(config.seed)
    measure_communication()
    if settings.use_gpu:
        # DeepSpeed takes the GPU of this number; Ray Train's choice differs from it on nodes with more than ten.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    initialize_deepspeed(settings.use_gpu)


def _cores_of_this_node() -> int:
    """As Ray counts them, which knows a container's limit; or, where it was told of none, those that there are."""
    here = ray.get_runtime_context().get_node_id()
    counts = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["NodeID"] == here]
    return next(iter(counts), 0) or len(os.sched_getaffinity(0))


def cores_of(local_rank: int, local_ranks: int, cores: list[int]) -> list[int]:
    """The cores of one worker of a machine: an even share of those that there are, at least one."""
    first, after = local_rank * len(cores) // local_ranks, (local_rank + 1) * len(cores) // local_ranks
    return cores[first:after] or [cores[first]]


def seed_process(seed: int) -> None:
    """Seeds every source of random numbers that a library might use; what the training draws has keys of its own."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)


def settings_for(
    config: TrainConfig,
    run: Storage,
    *,
    use_gpu: bool,
    threads: int | None,
    board: Any,
    data: str | None,
    fence: str | None,
    sight: str | None,
) -> dict[str, Any]:
    """WorkerSettings as Ray Train wants them."""
    return {
        "config": json.dumps(config.model_dump(mode="json")),
        "run": run.url,
        "use_gpu": use_gpu,
        "threads": threads,
        "board": board,
        "data": data,
        "fence": fence,
        "sight": sight,
    }
