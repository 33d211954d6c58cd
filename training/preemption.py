"""Learns that this worker is about to be taken away: by SIGTERM, a drained node, or a group of another size."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from infra.errors import StageFailed


class Preempted(StageFailed):
    """A worker was asked to go; the training was saved and goes on with another one."""


_asked = threading.Event()
_is_training = threading.Event()
_is_over = threading.Event()


def catch_sigterm() -> None:
    """From now on SIGTERM is remembered while a training runs here, and ends the process otherwise.

    Must be called in the process's main thread; Ray's own handler ends the process at once.
    """

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        if not _is_training.is_set():
            os._exit(128 + signal.SIGTERM)
        _asked.set()

    signal.signal(signal.SIGTERM, on_sigterm)


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Inside, the training looks at `is_preempted` and ends by itself."""
    _is_over.clear()
    _is_training.set()
    try:
        yield
    finally:
        _is_training.clear()
        _is_over.set()


def end_training(patience_s: float) -> None:
    """Asks the training that runs in another thread of this process to save and end, and waits until it has."""
    if _is_training.is_set():
        _asked.set()
        _is_over.wait(patience_s)


def is_preempted() -> bool:
    """Whether this worker has been asked to go."""
    return _asked.is_set() or _is_node_draining()


def _is_node_draining() -> bool:
    """By what Ray Train has told this worker; its public call would wait for all ranks, at each step."""
    from ray.train.v2._internal.execution.context import get_train_context

    try:
        return get_train_context().preemption_context.preemption_info is not None
    except RuntimeError:
        return False  # not under Ray Train
