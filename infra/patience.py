"""Tries again, or looks again, for a bounded time: what a storage in trouble refuses, what comes to be seen later."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from infra.errors import DiptychError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 20.0
SEEN_WITHIN_S = 60.0  # a network file system may show later what another machine has written
LOOK_AGAIN_S = 0.5

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


def comes_true(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether the condition is true, or becomes so within the time; it is asked once at least."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_AGAIN_S)
    return True
