"""Judges a step's loss: whether it may change the weights."""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from infra.errors import StageFailed
from training.config import BadStepAction

REMEMBERED = 100
MIN_REMEMBERED = 20


class TrainingStopped(StageFailed):
    """All ranks have stopped at the same step for a reason that trying again would not mend."""


@dataclass(frozen=True, slots=True)
class BadStepRule:
    """divergence_factor: a loss of more than so many times the median of the last 100 is bad; None: never for that."""

    action: BadStepAction
    divergence_factor: float | None
    max_in_a_row: int


class BadStepJudge:
    """Remembers the last losses, which are the same on every rank; so every rank judges alike."""

    def __init__(self, rule: BadStepRule, losses: Sequence[float] = ()) -> None:
        self._rule = rule
        self._losses = deque(losses, maxlen=REMEMBERED)
        self._in_a_row = self._in_a_row_before = 0

    @property
    def losses(self) -> tuple[float, ...]:
        """The last good losses."""
        return tuple(self._losses)

    def is_good(self, loss: float, step: int) -> bool:
        """Whether the step (from 0) may go on. Raises TrainingStopped when the rule says so."""
        problem = self._problem(loss)
        if problem is None:
            self._losses.append(loss)
            self._in_a_row, self._in_a_row_before = 0, self._in_a_row
            return True
        self._bad(step, problem)
        return False

    def refuse_gradient(self, step: int) -> None:
        """The step's loss was good, but its gradient is not finite. Raises TrainingStopped when the rule says so."""
        self._losses.pop()
        self._in_a_row = self._in_a_row_before
        self._bad(step, "its gradient is not finite")

    def _problem(self, loss: float) -> str | None:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        factor = self._rule.divergence_factor
        if factor is None or len(self._losses) < MIN_REMEMBERED:
            return None
        usual = statistics.median(self._losses)
        return f"its loss is {loss:.4f}, where {usual:.4f} is usual" if loss > factor * usual else None

    def _bad(self, step: int, problem: str) -> None:
        self._in_a_row += 1
        if self._rule.action is BadStepAction.SKIP and self._in_a_row <= self._rule.max_in_a_row:
            return
        many = f", as {self._in_a_row - 1:,} before it" if self._rule.action is BadStepAction.SKIP else ""
        raise TrainingStopped(
            f"Step {step + 1:,} went wrong{many}: {problem}.",
            "No weight was changed by it; the last checkpoint is kept.",
            f"Look at its samples with `diptych replay RUN --step {step + 1} --top 10`; lower train.lr, set "
            "train.grad_clip_norm=1, exclude samples, or set train.on_bad_step=skip.",
        )
