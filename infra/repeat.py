"""Does something again and again in a thread, for the length of a `with` block."""

import threading
from collections.abc import Callable

INTERRUPTED_WAIT_S = 2.0


class Repeating:
    """Calls `action` every `every_s` seconds in a thread named `name` until the block is left.

    An error of the action ends the thread and is shown by Python's own hook; the block goes on. The last call is waited
    for, but by an interruption, which somebody waits for himself, not for long.
    """

    def __init__(self, action: Callable[[], None], *, every_s: float, name: str) -> None:
        self._action = action
        self._every_s = every_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        is_interrupted = kind is not None and not issubclass(kind, Exception)
        self._thread.join(INTERRUPTED_WAIT_S if is_interrupted else None)

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self._action()
