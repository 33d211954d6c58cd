"""What Ray Train calls when it starts a group of workers."""

from typing import Any

import ray.exceptions
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from infra.place import Place
from training.preemption import catch_sigterm, end_training

SAVE_PATIENCE_S = 120.0  # after that a group is ended without its last checkpoint


class CatchSigterm(WorkerGroupCallback):  # type: ignore[misc]
    """Lets each worker save the training when it is asked to go, in place of ending at once.

    Python sets signal handlers in the main thread only, which Ray Train keeps for itself: the training runs in another.
    """

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Runs in the controller, once all workers of a group are there."""
        worker_group.execute(catch_sigterm)


class TellPlaces(WorkerGroupCallback):  # type: ignore[misc]
    """Tells the board where each rank is: what a node's death is explained with, and how many nodes are held."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Runs in the controller, once all workers of a group are there."""
        workers = sorted(worker_group.get_workers(), key=lambda worker: worker.distributed_context.world_rank)
        found = [worker.metadata for worker in workers]
        self._board.settle.remote([Place(facts.hostname, facts.node_id, facts.pid) for facts in found])


class SaveBeforeResize(WorkerGroupCallback):  # type: ignore[misc]
    """Has a checkpoint taken before Ray Train ends workers that are well, to start another number of them."""

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Runs in the controller before any group is ended, also one that is through or has failed."""
        status = worker_group.get_latest_poll_status()
        if status is None or status.errors or status.finished:
            return
        try:
            worker_group.execute(end_training, SAVE_PATIENCE_S)
        except ray.exceptions.RayError:
            return  # a worker died on the way: the checkpoint before counts
