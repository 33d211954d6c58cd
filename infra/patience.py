"""Tries again, for a bounded time, what a storage in trouble refuses."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from infra.errors import DiptychError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0

Result = TypeVar("Result")


def persist(
    action: Callable[[], Result],
    *,
    until: float,
    on_trouble: Callable[[Exception], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """The action's result; while it fails it is tried again with growing pauses, until that time of the clock.

    `on_trouble` hears of each failure. Raises the last one.
    """
    pause = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except (DiptychError, OSError) as error:
            if clock() + pause > until or isinstance(error, FileNotFoundError):
                raise
            if on_trouble is not None:
                on_trouble(error)
        # Many workers that fail together must not come back together.
        sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE_S)
