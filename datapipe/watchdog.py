"""Ends the process when one picture keeps its decoder busy for too long: nothing else can stop native code."""

import os
import signal
import threading
import time
from types import TracebackType

from datapipe.isolation import DECODE_TIMEOUT_S

CHECK_EVERY_S = 5.0


class Watchdog:
    """Watches over the blocks that are entered; one at a time.

    A process that is ended so counts as crashed: its shard is tried again, then in isolation, where the culprit is
    found.
    """

    def __init__(self, limit_s: float = 2 * DECODE_TIMEOUT_S, *, check_every_s: float = CHECK_EVERY_S) -> None:
        self._limit_s = limit_s
        self._check_every_s = check_every_s
        self._began: float | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._began = time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._began = None

    def _watch(self) -> None:
        while True:
            time.sleep(self._check_every_s)
            began = self._began
            if began is not None and time.monotonic() - began > self._limit_s:
                os.kill(os.getpid(), signal.SIGKILL)
