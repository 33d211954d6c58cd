"""Learns that this worker is about to be taken away: by SIGTERM, or because Ray drains its node."""

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
    _is_training.set()
    try:
        yield
    finally:
        _is_training.clear()


def is_preempted() -> bool:
    """Whether this worker has been asked to go. Every rank calls it at once."""
    # Ray's answer is rank 0's, sent to all: a rank that did not ask would keep the others waiting for ever.
    is_draining = _is_node_draining()
    return _asked.is_set() or is_draining


def _is_node_draining() -> bool:
    import ray.train

    try:
        return ray.train.get_preemption_info() is not None
    except (RuntimeError, AttributeError):
        return False  # not under Ray Train
