"""Fetches many URLs at once with one thread and libcurl, each within hard limits; yields each as it ends."""

import heapq
import itertools
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pycurl

from datapipe.addresses import Refusal, clean_url, parse_networks
from datapipe.config import BuildConfig
from datapipe.curl_loop import CurlLoop
from datapipe.retry import retry_delay_s
from datapipe.status import SampleStatus
from datapipe.transfer import Transfer, TransferLimits

BUSY_WAIT_S = 0.1
IDLE_WAIT_S = 0.02  # nothing is under way: the consumer has to catch up


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One URL of the list and the row that it stands in."""

    row: int
    url: str | None


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of a URL: its body, or the reason and a text that does not depend on timing."""

    row: int
    status: SampleStatus
    message: str = ""
    body: bytes = b""


@dataclass(slots=True)
class _Job:
    row: int
    url: str
    host: str
    tries: int = 0


class Fetcher:
    """Fetches URLs under the limits of a build's config. A `with` block closes its connections.

    A host that is slow or limits its connections holds up only its own URLs. `is_full` is asked before each new
    request: while it says yes, requests under way go on and no new ones begin.
    """

    def __init__(self, config: BuildConfig) -> None:
        self._config = config
        self._limits = TransferLimits(
            timeout_s=config.timeout,
            max_bytes=config.max_download_bytes,
            max_redirects=config.max_redirects,
            allowed_networks=parse_networks(config.allow_private_addresses),
            disallowed_directives=tuple(config.disallowed_header_directives),
            user_agent_token=config.user_agent_token,
        )
        self._loop = CurlLoop(config.connections)
        self._spare: list[Transfer] = []
        self._chance = random.Random()  # only for the moment of a retry: no outcome depends on it

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()
        for transfer in self._spare:
            transfer.close()

    def fetch(
        self, requests: Iterable[FetchRequest], is_full: Callable[[], bool] | None = None
    ) -> Iterator[FetchResult]:
        """Yields one result for each request, in the order in which they end.

        What `is_full` raises ends the fetch.
        """
        waiting = _Waiting(self._config.connections_per_host)
        for request in requests:
            url = clean_url(request.url)
            if isinstance(url, Refusal):
                yield FetchResult(request.row, url.status, url.message)
            else:
                waiting.add(_Job(request.row, url, urlsplit(url).netloc))
        running: dict[pycurl.Curl, tuple[Transfer, _Job]] = {}
        while waiting or running:
            while not (is_full and is_full()) and len(running) < self._config.connections:
                job = waiting.next(time.monotonic())
                if job is None:
                    break
                transfer = self._start(job)
                running[transfer.handle] = (transfer, job)
            for handle, code in self._loop.wait(self._patience(waiting, running)):
                transfer, job = running.pop(handle)
                waiting.release(job.host)
                yield from self._finish(transfer, job, code, waiting)

    def _start(self, job: _Job) -> Transfer:
        transfer = self._spare.pop() if self._spare else Transfer(self._limits)
        transfer.prepare(job.url)
        job.tries += 1
        self._loop.add(transfer.handle)
        return transfer

    def _finish(self, transfer: Transfer, job: _Job, code: int, waiting: "_Waiting") -> Iterator[FetchResult]:
        status, message = transfer.outcome(code)
        body, retry_after = transfer.take_body(), transfer.retry_after
        self._spare.append(transfer)
        delay = retry_delay_s(status, job.tries, self._config.retries, retry_after, self._chance)
        if delay is None:
            yield FetchResult(job.row, status, message, body if status.is_success else b"")
        else:
            waiting.add_later(job, time.monotonic() + delay)

    def _patience(self, waiting: "_Waiting", running: dict[pycurl.Curl, tuple[Transfer, _Job]]) -> float:
        """How long to wait for the network: shortly, so that a due retry or a change of `is_full` is seen."""
        due = waiting.next_due()
        longest = BUSY_WAIT_S if running else IDLE_WAIT_S
        return longest if due is None else min(longest, max(0.0, due - time.monotonic()))


class _Waiting:
    """Jobs that are not running: by host, so that a host at its limit holds up no other, and by time of retry."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._queues: dict[str, deque[_Job]] = defaultdict(deque)
        self._ready: deque[str] = deque()  # hosts with a job and a free place, in turn
        self._is_ready: set[str] = set()
        self._running: dict[str, int] = defaultdict(int)
        self._later: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._jobs = 0

    def __bool__(self) -> bool:
        return self._jobs > 0

    def add(self, job: _Job) -> None:
        """Puts the job at the end of its host's queue."""
        self._jobs += 1
        self._queues[job.host].append(job)
        self._offer(job.host)

    def add_later(self, job: _Job, due: float) -> None:
        """Puts the job back until `due`."""
        self._jobs += 1
        heapq.heappush(self._later, (due, next(self._order), job))

    def next(self, now: float) -> _Job | None:
        """The next job that may run, its host's place taken; None when each must wait."""
        while self._later and self._later[0][0] <= now:
            self._jobs -= 1
            self.add(heapq.heappop(self._later)[2])
        if not self._ready:
            return None
        host = self._ready.popleft()
        self._is_ready.discard(host)
        job = self._queues[host].popleft()
        self._jobs -= 1
        self._running[host] += 1
        self._offer(host)
        return job

    def release(self, host: str) -> None:
        """Gives back a host's place."""
        self._running[host] -= 1
        self._offer(host)

    def next_due(self) -> float | None:
        """When the next retry is due."""
        return self._later[0][0] if self._later else None

    def _offer(self, host: str) -> None:
        if host not in self._is_ready and self._queues[host] and self._running[host] < self._per_host:
            self._ready.append(host)
            self._is_ready.add(host)
