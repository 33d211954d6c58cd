"""Lets one shard of a process at a time use its core: the earliest that has something to do."""

import heapq
import threading


class Baton:
    """A lock for which the lowest number goes first.

    So the shards of a process end one after another, and the slow hosts of one are waited for while the next works.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, threading.Lock]] = []
        self._is_held = False
        self._entries = 0

    def acquire(self, number: int) -> None:
        """Waits for the baton."""
        with self._lock:
            if not self._is_held:
                self._is_held = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._entries += 1
            heapq.heappush(self._waiting, (number, self._entries, turn))
        turn.acquire()

    def release(self) -> None:
        """Hands the baton on."""
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[2].release()
            else:
                self._is_held = False

    def is_wanted_before(self, number: int) -> bool:
        """Whether somebody with a lower number waits."""
        with self._lock:
            return bool(self._waiting) and self._waiting[0][0] < number
