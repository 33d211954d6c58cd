"""Measures the time that this process spends in torch.distributed, DeepSpeed's calls and ours alike."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

COLLECTIVES = (
    "all_reduce",
    "reduce",
    "broadcast",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",
    "reduce_scatter_tensor",
    "reduce_scatter_single",
    "all_gather_object",
    "barrier",
)

MARK = "_diptych_clock"

_spent_ns = 0


def measure_communication() -> None:
    """Puts a clock around the collectives of this process; must come before DeepSpeed takes hold of them.

    They have no hook of their own, and DeepSpeed's timer waits for the device after each of them.
    """
    for name in COLLECTIVES:
        function = getattr(dist, name, None)
        if function is not None and not hasattr(function, MARK):
            setattr(dist, name, _timed(function))


def communication_ns() -> int:
    """Nanoseconds of the calling threads in collectives since the process began; on a GPU what the host waits."""
    return _spent_ns


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        result = _spend(function, *args, **options)
        return result if result is None or not hasattr(result, "wait") else _TimedWork(result)

    setattr(call, MARK, True)
    return call


def _spend(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    global _spent_ns
    began = time.perf_counter_ns()
    try:
        return function(*args, **options)
    finally:
        _spent_ns += time.perf_counter_ns() - began


class _TimedWork:
    """A collective under way, whose `wait` is timed too."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)

    def wait(self, *args: Any, **options: Any) -> Any:
        """As the collective's own."""
        return _spend(self._work.wait, *args, **options)
