"""Shows which stage runs, how far it is, at what rate and how long it will take; on a terminal and in a file."""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from io import TextIOBase
from typing import IO, Any, TextIO

from infra.progress_display import Display, ProgressForm, display_on, plain_lines

RATE_WINDOW_S = 30.0  # long enough to smooth over a shard, short enough to follow a change
SNAPSHOT_EVERY_S = 1.0
NODES_FACT = "nodes"  # a stage's fact: how many machines it holds now; one, where it does not say

Fact = float | str | Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """How far one stage is. `rate` is in units a second; `eta_s` is None while it can't be told.

    `facts` are the stage's own further numbers by name, for machines: e.g. `mb_per_s`, or `failures` by reason.
    """

    stage: str
    unit: str
    done: int
    total: int | None
    rate: float | None
    eta_s: float | None
    detail: str
    elapsed_s: float
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def line(self) -> str:
        """One plain line: `build  1,200/7,000 images  17%  240.1 images/s  24 s left  detail`."""
        rate = f"  {self.rate:,.1f} {self.unit}/s" if self.rate else ""
        left = f"  {duration(self.eta_s)} left" if self.eta_s is not None else ""
        detail = f"  {self.detail}" if self.detail else ""
        return f"{self.stage}  {self.share}{rate}{left}{detail}"

    @property
    def share(self) -> str:
        """How far it is, in words: `1,200/7,000 images  17%`."""
        if not self.total:
            return f"{self.done:,} {self.unit}"
        return f"{self.done:,}/{self.total:,} {self.unit}  {100 * self.done // self.total}%"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them: a number that is not finite is null there."""
        return {**asdict(self), "facts": {name: _finite(fact) for name, fact in self.facts.items()}}

    @property
    def took(self) -> str:
        """How long the stage has taken by now, in words."""
        return duration(self.elapsed_s)


class Progress:
    """The progress display of one command: one stage after another, each between `begin` and `end`.

    On a terminal a live bar; elsewhere a plain line every ten seconds; in the form `json` a JSON object a line,
    about once a second. `journal` gets the plain lines besides. `on_snapshot` receives the same facts once a second,
    for whoever watches from outside.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        form: ProgressForm = ProgressForm.AUTO,
        journal: IO[str] | TextIOBase | None = None,
        on_snapshot: Callable[[StageSnapshot], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._displays: list[Display] = [display_on(stream or sys.stderr, form)]
        if journal is not None:
            self._displays.append(plain_lines(journal))
        self._on_snapshot = on_snapshot
        self._clock = clock
        self._lock = threading.RLock()  # a stage may be watched from a thread of its own
        self._stage: _Stage | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        for display in self._displays:
            display.stop()

    def begin(self, stage: str, *, total: int | None, unit: str, done: int = 0) -> None:
        """Starts a stage that has `done` of its `total` units behind it already."""
        with self._lock:
            self._stage = _Stage(stage, unit, total, done, self._clock())
            for display in self._displays:
                display.start()
            self._show(force=True)

    def update(self, done: int, detail: str = "", *, total: int | None = None) -> None:
        """Sets how many units are done, counted from the stage's very start."""
        with self._lock:
            if self._stage is not None:
                self._stage.update(done, detail, total, self._clock())
                self._show(force=False)

    def set_detail(self, detail: str) -> None:
        """Sets the words after the numbers."""
        with self._lock:
            if self._stage is not None:
                self._stage.detail = detail
                self._show(force=False)

    def set_facts(self, facts: Mapping[str, Fact]) -> None:
        """Sets the stage's further numbers, all of them anew: `{"mb_per_s": 8.1, "failures": {"http_404": 3}}`.

        They are told with the next update, and to machines: the bar and the plain lines show `detail` and not these.
        """
        with self._lock:
            if self._stage is not None:
                self._stage.facts = {
                    name: dict(fact) if isinstance(fact, Mapping) else fact for name, fact in facts.items()
                }

    def restart_rate(self, done: int) -> None:
        """Measures the rate from here and now: what was before was start-up, or has to be done again."""
        with self._lock:
            if self._stage is not None:
                self._stage.restart_rate(done, self._clock())

    def end(self, summary: str) -> None:
        """Ends the stage with a line that stays."""
        with self._lock:
            if self._stage is None:
                return
            snapshot = self._stage.snapshot(self._clock())
            if self._on_snapshot:
                self._on_snapshot(snapshot)
            self._stage = None
            for display in self._displays:
                display.end(snapshot, summary)

    def note(self, text: str) -> None:
        """Prints a line that stays, above the bar if there is one."""
        with self._lock:
            for display in self._displays:
                display.note(text)

    def _show(self, *, force: bool) -> None:
        stage, now = self._stage, self._clock()
        assert stage is not None
        snapshot = stage.snapshot(now)
        if self._on_snapshot and (force or now - stage.snapshot_at >= SNAPSHOT_EVERY_S):
            stage.snapshot_at = now
            self._on_snapshot(snapshot)
        for display in self._displays:
            display.show(snapshot, force=force)


class _Stage:
    def __init__(self, name: str, unit: str, total: int | None, done: int, now: float) -> None:
        self.name, self.unit, self.total, self.done, self.detail = name, unit, total, done, ""
        self.facts: Mapping[str, Fact] = {}
        self.started = self.snapshot_at = now
        self.restart_rate(done, now)

    def restart_rate(self, done: int, now: float) -> None:
        self.done = done
        self._history: deque[tuple[float, int]] = deque([(now, done)])

    def update(self, done: int, detail: str, total: int | None, now: float) -> None:
        self.done, self.detail, self.total = done, detail or self.detail, total or self.total
        self._history.append((now, done))
        while len(self._history) > 2 and now - self._history[0][0] > RATE_WINDOW_S:
            self._history.popleft()

    def snapshot(self, now: float) -> StageSnapshot:
        since, before = self._history[0]
        seconds = now - since
        rate = (self.done - before) / seconds if seconds > 0 and self.done > before else None
        eta = (self.total - self.done) / rate if rate and self.total else None
        elapsed = now - self.started
        return StageSnapshot(self.name, self.unit, self.done, self.total, rate, eta, self.detail, elapsed, self.facts)


def duration(seconds: float) -> str:
    """A duration as people read it: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _finite(fact: Fact) -> Fact | None:
    return None if isinstance(fact, float) and not math.isfinite(fact) else fact
