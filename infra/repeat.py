"""Does something again and again in a thread, for the length of a `with` block."""

import threading
from collections.abc import Callable


class Repeating:
    """Calls `action` every `every_s` seconds in a thread named `name` until the block is left.

    An error of the action ends the thread and is shown by Python's own hook; the block goes on.
    """

    def __init__(self, action: Callable[[], None], *, every_s: float, name: str) -> None:
        self._action = action
        self._every_s = every_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self._action()
