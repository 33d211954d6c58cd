"""What Ray Train calls when it starts a group of workers."""

from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from training.preemption import catch_sigterm


class CatchSigterm(WorkerGroupCallback):  # type: ignore[misc]
    """Lets each worker save the training when it is asked to go, in place of ending at once.

    Python sets signal handlers in the main thread only, which Ray Train keeps for itself: the training runs in another.
    """

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Runs in the controller, once all workers of a group are there."""
        worker_group.execute(catch_sigterm)
