"""Says when a checkpoint is due: every so many steps, samples or minutes, whichever comes first."""

import time
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Cadence:
    """What a checkpoint is taken after; None: not by that measure."""

    steps: int | None = None
    samples: int | None = None
    minutes: float | None = None


class CadenceClock:
    """Follows a training whose last checkpoint is of step `saved`. What is due stays due until `saved_at`."""

    def __init__(
        self, cadence: Cadence, batch_size: int, saved: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cadence = cadence
        self._batch_size = batch_size
        self._saved = saved
        self._clock = clock
        self._saved_at = clock()

    @property
    def saved(self) -> int:
        """The step of the last checkpoint."""
        return self._saved

    def is_step(self, step: int) -> bool:
        """Whether a multiple of the steps or samples has been passed since the last checkpoint; the same on all ranks.

        Multiples, not distances: so that a training that was resumed elsewhere saves at the same steps.
        """
        periods = [(1, self._cadence.steps), (self._batch_size, self._cadence.samples)]
        return any(period and step * unit // period > self._saved * unit // period for unit, period in periods)

    def is_time(self) -> bool:
        """Whether the minutes have passed by this process's clock."""
        minutes = self._cadence.minutes
        return minutes is not None and self._clock() - self._saved_at >= SECONDS * minutes

    def saved_at(self, step: int) -> None:
        """A checkpoint of this step has been taken."""
        self._saved, self._saved_at = step, self._clock()
