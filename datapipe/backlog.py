"""Fetches in a thread of its own, so that decoding never makes a transfer run into its time limit."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol

from datapipe.baton import Baton
from datapipe.fetch import Fetcher, FetchRequest, FetchResult

# Of one shard, in memory: past this no request begins. Bodies on their way, which are as slow as their hosts please, do
# not count; past MAX_MEMORY_BYTES they and those that wait go to disk.
MAX_WAITING_BYTES = 32 << 20
WAITING_SHARE = 0.5  # results that may wait, of the requests under way at once, which come on top


def fetch_in_background(
    fetcher: Fetcher, requests: Iterable[FetchRequest], baton: Baton, number: int
) -> Iterator[FetchResult]:
    """Yields the results as they come. The caller holds the baton whenever it has one, and not while it waits."""
    backlog = Backlog(fetcher)
    thread = threading.Thread(target=_fetch, args=(fetcher, requests, backlog), name="fetch", daemon=True)
    thread.start()
    baton.acquire(number)
    try:
        while (result := _next(backlog, baton, number)) is not None:
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        baton.release()
        backlog.abandon()
        thread.join()
        backlog.clear()


def _fetch(fetcher: Fetcher, requests: Iterable[FetchRequest], backlog: "Backlog") -> None:
    try:
        for result in fetcher.fetch(requests, backlog.is_full):
            backlog.put(result)
        backlog.put(None)
    except _AbandonedError:
        return
    except BaseException as error:  # noqa: BLE001 - the thread's border: raised again by the one who waits
        backlog.put(error)


def _next(backlog: "Backlog", baton: Baton, number: int) -> FetchResult | BaseException | None:
    backlog.tell_of_room()
    is_ready = backlog.has_one()
    if not is_ready or baton.is_wanted_before(number):
        baton.release()
        try:
            if not is_ready:
                backlog.wait()
        finally:
            baton.acquire(number)
    return backlog.get()


class _AbandonedError(Exception):
    """Nobody wants the results any more."""


class CanBeWoken(Protocol):
    """What fetches, as a backlog sees it."""

    @property
    def most_at_once(self) -> int:
        """Requests that may be under way at once."""

    @property
    def waiting_bytes(self) -> int:
        """What bodies take in memory whose answers have ended and that were not taken yet."""

    def wake(self) -> None:
        """Makes it ask `is_full` again."""


class Backlog:
    """Results between the thread that fetches and the one that decodes, limited in number and bytes.

    Requests under way do not count: where most of them hang, hardly one would begin beside them.
    The fetcher is woken when there is room for half of what may wait: each awakening has a price.
    """

    def __init__(self, fetcher: CanBeWoken) -> None:
        self._fetcher = fetcher
        self._was_full = False
        self._results: queue.SimpleQueue[FetchResult | BaseException | None] = queue.SimpleQueue()
        self._peeked: list[FetchResult | BaseException | None] = []
        self._is_abandoned = threading.Event()

    def put(self, result: FetchResult | BaseException | None) -> None:
        """Adds a result, the error that ended the fetch, or None for its end."""
        self._results.put(result)

    def has_one(self) -> bool:
        """Whether `get` would not wait."""
        return bool(self._peeked) or not self._results.empty()

    def wait(self) -> None:
        """Waits until there is one."""
        self._peeked.append(self._results.get())

    def get(self) -> FetchResult | BaseException | None:
        """The next one."""
        return self._peeked.pop() if self._peeked else self._results.get()

    def tell_of_room(self) -> None:
        """Wakes the fetcher if it waits and there is room; to be called after a body was taken."""
        if self._was_full and not self._fills(0.5):
            self._was_full = False
            self._fetcher.wake()

    def is_full(self) -> bool:
        """Whether no new request may begin. Raises _AbandonedError after `abandon`."""
        if self._is_abandoned.is_set():
            raise _AbandonedError
        # The mark is set before the look, so that room made meanwhile is told of.
        self._was_full = True
        self._was_full = self._fills(1.0)
        return self._was_full

    def abandon(self) -> None:
        """Ends the fetch at its next step."""
        self._is_abandoned.set()
        self._fetcher.wake()

    def clear(self) -> None:
        """Lets go of the bodies of all results that nobody has got."""
        while self.has_one():
            result = self.get()
            if isinstance(result, FetchResult) and result.body is not None:
                result.body.clear()

    def _fills(self, share: float) -> bool:
        """Whether so much of what may wait is waiting."""
        most_results = self._fetcher.most_at_once * WAITING_SHARE
        waiting_bytes = self._fetcher.waiting_bytes
        return self._results.qsize() >= share * most_results or waiting_bytes >= share * MAX_WAITING_BYTES
