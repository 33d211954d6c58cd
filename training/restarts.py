"""After a failure of the workers: explains it, and has them started again, or tells why not."""

import time
from collections.abc import Callable

from infra.append_log import read_log
from infra.errors import StageFailed, UserError
from infra.patience import persist
from infra.remote_errors import unwrapped
from infra.storage import Storage
from training.checkpoint import newest_checkpoint, newest_whole_checkpoint, step_of
from training.config import TrainConfig
from training.failure import Failure, FailureKind, failure_of, located
from training.lost_nodes import lost_nodes, recount_room
from training.records import METRICS_FILE, parse_metrics
from training.retry import RetryRule, RetryState, decide
from training.watch import TrainingWatch

MINUTE_S = 60.0


class Restarts:
    """Decides after each failure whether the workers are started again, and tells of it."""

    def __init__(
        self, config: TrainConfig, run: Storage, steps: int, watch: TrainingWatch, tell: Callable[[bool, str], None]
    ) -> None:
        self._rule = RetryRule(config.max_restarts, config.max_error_restarts)
        self._state = RetryState()
        self._run, self._steps, self._watch, self._tell = run, steps, watch, tell
        self._patience_s = config.checkpoint_patience_minutes * MINUTE_S
        self._is_elastic = config.min_workers < config.max_workers
        self._count_every_s, self._counted_at = config.resize_check_s, time.monotonic()
        self._failed_attempt: int | None = None
        self._is_waiting = False

    def look(self) -> None:
        """Shows what is new; the first step of a new group of workers ends the retrying."""
        self._watch.look()
        if self._is_elastic and time.monotonic() - self._counted_at >= self._count_every_s:
            recount_room()
            self._counted_at = time.monotonic()
        if self._is_waiting and self._watch.attempt != self._failed_attempt:
            self._is_waiting = False
            self._tell(False, "")

    def next(self, error: Exception) -> str:
        """What is done about the failure, in words. Raises the user's error, or StageFailed, when that is nothing."""
        inner = unwrapped(error)
        if isinstance(inner, UserError):
            raise inner from error
        # What ended the workers may be the storage, which is as long away for us.
        until = time.monotonic() + self._patience_s
        recorded = persist(lambda: _steps_recorded(self._run), until=until)
        done = persist(lambda: steps_done(self._run, self._steps), until=until)
        failure = self._explained(failure_of(error, recorded + 1))
        decision = decide(self._rule, self._state, failure, done)
        if not decision.is_retry:
            raise StageFailed(
                "\n".join([f"The training stopped: {failure}", *(f"  {line}" for line in failure.lines)]),
                f"It was not started again: {decision.why}. Its checkpoints are kept.",
                "See to the cause and run the same command again: it goes on.",
            ) from error
        self._state, self._failed_attempt, self._is_waiting = decision.state, self._watch.attempt, True
        why = f"{failure}; {decision.why}"
        self._tell(True, why)
        if self._is_elastic:
            recount_room()
        return why

    def _explained(self, failure: Failure) -> Failure:
        """With its node, and whether that has died, which Ray does not know at once."""
        self._watch.look()  # the group may have died right after it was there
        places = self._watch.places
        is_machine = failure.kind is FailureKind.INFRASTRUCTURE
        return located(failure, places, lost_nodes(places) if is_machine else frozenset())


def steps_done(run: Storage, steps: int) -> int:
    """The step of the newest checkpoint, of a training of so many steps; 0 when there is none."""
    path = newest_checkpoint(run)
    if path is not None and step_of(path) >= steps:
        # Nothing would be started that looks at its bytes.
        path = newest_whole_checkpoint(run)
    return step_of(path) if path else 0


def _steps_recorded(run: Storage) -> int:
    """The step that the last group of workers did last, which may lie before that of an earlier one."""
    attempt = last = 0
    for metrics in parse_metrics(read_log(run, METRICS_FILE)):
        # Lines of two machines come in the order of their clocks, which may differ.
        if metrics.attempt >= attempt:
            attempt, last = metrics.attempt, metrics.step
    return last
