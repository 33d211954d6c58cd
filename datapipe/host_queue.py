"""Says which request may start next: fair between hosts, within each host's limits."""

import heapq
import itertools
from collections import defaultdict, deque
from typing import Generic, Protocol, TypeVar


class HasHost(Protocol):
    """A job that waits for its host."""

    @property
    def host(self) -> str:
        """The host and port that it goes to."""


Job = TypeVar("Job", bound=HasHost)


class HostQueues(Generic[Job]):
    """Jobs that are not running, by host: one at its limit holds up no other.

    A host has at most `per_host` jobs running, begins at most one in `interval_s` seconds, and can be held for a while.
    """

    def __init__(self, per_host: int, interval_s: float = 0.0) -> None:
        self._per_host = per_host
        self._interval_s = interval_s
        self._queues: dict[str, deque[Job]] = defaultdict(deque)
        self._ready: deque[str] = deque()  # hosts with a job and a free place, in turn
        self._is_offered: set[str] = set()  # in `_ready` or in `_held`
        self._running: dict[str, int] = defaultdict(int)
        self._not_before: dict[str, float] = {}
        self._held: list[tuple[float, str]] = []
        self._later: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._jobs = 0

    def __bool__(self) -> bool:
        return self._jobs > 0

    def add(self, job: Job, *, first: bool = False) -> None:
        """Puts the job at the end of its host's queue, or at its front."""
        self._jobs += 1
        queue = self._queues[job.host]
        queue.appendleft(job) if first else queue.append(job)
        self._offer(job.host)

    def add_later(self, job: Job, due: float) -> None:
        """Puts the job back until `due`."""
        self._jobs += 1
        heapq.heappush(self._later, (due, next(self._order), job))

    def hold(self, host: str, until: float) -> None:
        """Begins nothing on this host before `until`."""
        self._not_before[host] = max(until, self._not_before.get(host, until))

    def next(self, now: float) -> Job | None:
        """The next job that may run, its host's place taken; None when each must wait."""
        while self._later and self._later[0][0] <= now:
            self._jobs -= 1
            self.add(heapq.heappop(self._later)[2])
        while self._held and self._held[0][0] <= now:
            self._ready.append(heapq.heappop(self._held)[1])
        while self._ready:
            host = self._ready.popleft()
            if (until := self._not_before.get(host, now)) > now:
                heapq.heappush(self._held, (until, host))
                continue
            self._is_offered.discard(host)
            return self._take(host, now)
        return None

    def release(self, host: str) -> None:
        """Gives back a host's place."""
        self._running[host] -= 1
        self._offer(host)

    def next_due(self) -> float | None:
        """When the next retry is due, or a host is not held any more."""
        due = [heap[0][0] for heap in (self._later, self._held) if heap]
        return min(due, default=None)

    def _take(self, host: str, now: float) -> Job:
        self._jobs -= 1
        self._running[host] += 1
        if self._interval_s:
            self._not_before[host] = now + self._interval_s
        job = self._queues[host].popleft()
        self._offer(host)
        return job

    def _offer(self, host: str) -> None:
        if host not in self._is_offered and self._queues[host] and self._running[host] < self._per_host:
            self._ready.append(host)
            self._is_offered.add(host)
