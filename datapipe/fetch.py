"""Fetches many URLs at once with one thread and libcurl, each within hard limits; yields each as it ends."""

import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import pycurl

from datapipe.addresses import Refusal, clean_url, parse_networks
from datapipe.authorities import find_authorities
from datapipe.body import Body, BodyMemory
from datapipe.config import BuildConfig
from datapipe.curl_loop import CurlLoop
from datapipe.host_queue import HostQueues
from datapipe.resolve import NO_ANSWER, Answer, Resolver
from datapipe.retry import asked_delay_s, retry_delay_s
from datapipe.robots_rules import MAX_BYTES, SiteRules
from datapipe.robots_txt import RobotsRules, robots_url
from datapipe.status import SampleStatus
from datapipe.transfer import Transfer, TransferLimits
from infra.open_files import shortage

LONGEST_WAIT_S = 1.0  # whoever has news wakes the loop; this is for whoever forgets


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One URL of the list and the row that it stands in."""

    row: int
    url: str | None


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What became of a URL: its body, or the reason and a text that does not depend on timing.

    The body is there for a success alone, and whoever has the result takes or clears it.
    """

    row: int
    status: SampleStatus
    message: str = ""
    body: Body | None = None


@dataclass(slots=True)
class _Job:
    """A URL on its way; `row` is None for a robots.txt."""

    row: int | None
    first_url: SplitResult
    url: SplitResult
    tries: int = 0
    hops: int = 0
    is_allowed: bool | None = None  # by the robots.txt of the site that it goes to; None until that is known
    left_s: float = 0.0  # of this try's time, while it waits for its turn
    deadline: float = 0.0  # of this try, with all its hops, while it runs

    @property
    def host(self) -> str:
        """The host and port that it goes to."""
        return self.url.netloc


@dataclass(frozen=True, slots=True)
class _RobotsAnswer:
    """What asking for a site's robots.txt gave; `url` is the one that was asked first."""

    url: SplitResult
    status: SampleStatus
    body: Body | None

    def take(self) -> bytes:
        """So much of the body as is read, and one byte, which tells that there is more."""
        return b"" if self.body is None else self.body.take(MAX_BYTES + 1)


class Fetcher:
    """Fetches URLs under the limits of a build's config. A `with` block closes its connections.

    A host that is slow or limits its connections holds up only its own URLs. `is_full` is asked before each new
    request: while it says yes, requests under way go on and no new ones begin; when it would say no again, `wake`
    should be called.
    """

    def __init__(self, config: BuildConfig, resolver: Resolver | None = None, *, scratch: Path | None = None) -> None:
        self._config = config
        self._limits = TransferLimits(
            max_bytes=config.max_download_bytes,
            allowed_networks=parse_networks(config.allow_private_addresses),
            authorities=find_authorities(),
            user_agent_token=config.user_agent_token,
            proxy=config.proxy,
            scratch=None if scratch is None else str(scratch),
        )
        self._disallowed_directives = tuple(config.disallowed_header_directives)
        self._resolver = resolver or Resolver()
        self._memory = BodyMemory()
        self._loop = CurlLoop(config.connections)
        self._spare: list[Transfer] = []
        self._chance = random.Random()  # only for the moment of a retry: no outcome depends on it
        interval_s = 1 / config.requests_per_second_per_host if config.requests_per_second_per_host else 0.0
        self._waiting = HostQueues[_Job](config.connections_per_host, interval_s)
        self._running: dict[pycurl.Curl, tuple[Transfer, _Job]] = {}
        self._unresolved: list[_Job] = []
        self._robots = RobotsRules(config.user_agent_token) if config.respect_robots_txt else None
        self._before_robots: dict[str, list[_Job]] = defaultdict(list)
        self._unread: deque[_RobotsAnswer] = deque()
        self._undecided: deque[tuple[SiteRules, _Job]] = deque()  # of one site: the rules of many take much memory

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()
        for transfer in (*self._spare, *(transfer for transfer, _ in self._running.values())):
            transfer.close()
        for answer in self._unread:
            answer.take()

    def wake(self) -> None:
        """Makes `fetch` ask `is_full` again; may be called by any thread, also after the end."""
        self._loop.wake()

    def fetch(
        self, requests: Iterable[FetchRequest], is_full: Callable[[], bool] | None = None
    ) -> Iterator[FetchResult]:
        """Yields one result for each request, in the order in which they end.

        What `is_full` raises ends the fetch. Raises OutputError and MachineError for what this machine lacks.
        """
        for request in requests:
            url = clean_url(request.url)
            if isinstance(url, Refusal):
                yield FetchResult(request.row, url.status, url.message)
            else:
                parts = urlsplit(url)
                self._waiting.add(_Job(request.row, parts, parts))
        while self._has_work:
            self._decide_next()
            yield from self._start_resolved()
            patience_s = LONGEST_WAIT_S
            while not (is_full and is_full()) and self._under_way < self._config.connections:
                job = self._waiting.next(time.monotonic())
                if job is None:
                    patience_s = self._until_due()
                    break
                needed_decision = job.is_allowed is None
                yield from self._begin(job)
                if self._robots and needed_decision and job.is_allowed is not None:
                    patience_s = 0.0  # many decisions on end would hold up every transfer
                    break
            if self._unread or self._undecided:
                patience_s = 0.0
            for handle, code in self._loop.wait(patience_s) if self._has_work else ():
                transfer, job = self._running.pop(handle)
                yield from self._finish(transfer, job, code)

    @property
    def most_at_once(self) -> int:
        """Requests that may be under way at once."""
        return self._config.connections

    @property
    def bytes_in_memory(self) -> int:
        """What bodies take in memory that are on their way or were not taken yet."""
        return self._memory.used_bytes

    @property
    def waiting_bytes(self) -> int:
        """What bodies take in memory whose answers have ended and that were not taken yet."""
        return self._memory.waiting_bytes

    @property
    def _has_work(self) -> bool:
        """Whether a request has not ended."""
        return bool(self._waiting or self._running or self._unresolved or self._before_robots or self._undecided)

    @property
    def _under_way(self) -> int:
        """Requests that have begun and not ended, or whose robots.txt is still to be read, so that few are kept."""
        return len(self._running) + len(self._unresolved) + len(self._unread)

    def _begin(self, job: _Job) -> Iterator[FetchResult]:
        """Starts the job, whose host has kept a place for it, or puts it with those that wait for something."""
        if self._robots is None or job.row is None:
            job.is_allowed = True
        elif job.is_allowed is None:
            job.is_allowed = self._robots.allows(job.url)
        if job.is_allowed is None:
            self._ask_robots(job)
        elif not job.is_allowed:
            yield from self._end(job, SampleStatus.ROBOTS_TXT, "the site's robots.txt forbids the use")
        else:
            if job.hops == 0:
                job.tries += 1
                job.left_s = self._config.timeout
            job.deadline = time.monotonic() + job.left_s
            yield from self._start(job)

    def _ask_robots(self, job: _Job) -> None:
        url = robots_url(job.url)
        if url not in self._before_robots:
            parts = urlsplit(url)
            self._waiting.add(_Job(None, parts, parts))
        self._before_robots[url].append(job)
        self._waiting.release(job.host)

    def _decide_next(self) -> None:
        """Decides on one URL that waited for its site's rules, or reads the next site's: either may take a while."""
        if self._undecided:
            rules, job = self._undecided.popleft()
            job.is_allowed = rules.allows(job.url)
            self._waiting.add(job)
        elif self._unread and self._robots:
            answer = self._unread.popleft()
            # Its jobs keep the rules, which may be forgotten before their turn.
            rules = self._robots.learn(answer.url, answer.status, answer.take())
            self._undecided.extend((rules, job) for job in self._before_robots.pop(robots_url(answer.url)))

    def _start_resolved(self) -> Iterator[FetchResult]:
        jobs, self._unresolved = self._unresolved, []
        for job in jobs:
            yield from self._start(job)

    def _start(self, job: _Job) -> Iterator[FetchResult]:
        left_s = job.deadline - time.monotonic()
        # With a proxy it is the proxy that looks names up.
        host = job.url.hostname or ""
        answer: Answer | None = () if self._config.proxy else self._resolver.ask(host, self._loop.wake)
        if answer is None and left_s > 0:
            self._unresolved.append(job)
        elif isinstance(answer, OSError):
            raise shortage(answer)
        elif answer is None:
            yield from self._end(job, NO_ANSWER.status, NO_ANSWER.message)
        elif isinstance(answer, Refusal):
            yield from self._end(job, answer.status, answer.message)
        elif left_s <= 0:
            yield from self._end(job, SampleStatus.TIMEOUT, "not whole within the time limit")
        else:
            transfer = self._spare.pop() if self._spare else Transfer(self._limits, self._memory)
            # Where a site keeps its rules from being indexed, they hold none the less.
            directives = () if job.row is None else self._disallowed_directives
            transfer.prepare(job.url, answer, left_s, directives)
            self._running[transfer.handle] = (transfer, job)
            self._loop.add(transfer.handle)

    def _finish(self, transfer: Transfer, job: _Job, code: int) -> Iterator[FetchResult]:
        self._spare.append(transfer)
        status, message = transfer.outcome(code)
        target = transfer.redirect_url if code == pycurl.E_OK else None
        retry_after = None if status.is_success else transfer.retry_after
        body = transfer.take_body()
        if not status.is_success:
            body.clear()
        if target is not None:
            yield from self._follow(job, target)
        else:
            yield from self._end(job, status, message, body, retry_after)

    def _follow(self, job: _Job, target: str) -> Iterator[FetchResult]:
        """Goes to where an answer redirects; the new URL is held to the same rules as the first one."""
        url = clean_url(target)
        if not target:
            yield from self._end(job, SampleStatus.HTTP_OTHER, "redirected to nowhere")
        elif job.hops >= self._config.max_redirects:
            yield from self._end(job, SampleStatus.TOO_MANY_REDIRECTS, "more redirects than allowed")
        elif isinstance(url, Refusal):
            yield from self._end(job, url.status, f"redirected: {url.message}")
        else:
            self._waiting.release(job.host)
            job.url, job.hops, job.is_allowed = urlsplit(url), job.hops + 1, None
            job.left_s = max(0.0, job.deadline - time.monotonic())
            self._waiting.add(job, first=True)

    def _end(
        self, job: _Job, status: SampleStatus, message: str, body: Body | None = None, retry_after: str | None = None
    ) -> Iterator[FetchResult]:
        """Gives back the host's place; then the job is tried again, or has ended."""
        now = time.monotonic()
        self._waiting.release(job.host)
        if not status.is_success and (asked := asked_delay_s(retry_after)) is not None:
            self._waiting.hold(job.host, now + asked)
        delay = retry_delay_s(status, job.tries, self._config.retries, retry_after, self._chance)
        if delay is not None:
            job.url, job.hops = job.first_url, 0
            self._waiting.add_later(job, now + delay)
        elif job.row is not None:
            yield FetchResult(job.row, status, message, body if status.is_success else None)
        else:
            self._unread.append(_RobotsAnswer(job.first_url, status, body))

    def _until_due(self) -> float:
        """How long to wait for the network when nothing waits but what has a time."""
        due = self._waiting.next_due()
        return LONGEST_WAIT_S if due is None else min(LONGEST_WAIT_S, max(0.0, due - time.monotonic()))
