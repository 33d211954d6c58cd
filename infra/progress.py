"""Shows which stage runs, how far it is, at what rate and how long it will take; on a terminal and in a file."""

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

RATE_WINDOW_S = 30.0  # long enough to smooth over a shard, short enough to follow a change
PLAIN_LINE_EVERY_S = 10.0  # a log file stays readable
SNAPSHOT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class StageSnapshot:
    """How far one stage is. `rate` is in units a second; `eta_s` is None while it can't be told."""

    stage: str
    unit: str
    done: int
    total: int | None
    rate: float | None
    eta_s: float | None
    detail: str
    elapsed_s: float

    def line(self) -> str:
        """One plain line: `build  1,200/7,000 images  17%  240.1 images/s  24 s left  detail`."""
        share = f"  {100 * self.done // self.total}%" if self.total else ""
        total = f"/{self.total:,}" if self.total else ""
        rate = f"  {self.rate:,.1f} {self.unit}/s" if self.rate else ""
        left = f"  {duration(self.eta_s)} left" if self.eta_s is not None else ""
        detail = f"  {self.detail}" if self.detail else ""
        return f"{self.stage}  {self.done:,}{total} {self.unit}{share}{rate}{left}{detail}"


class Progress:
    """The progress display of one command: one stage after another, each between `begin` and `end`.

    On a terminal a live bar; elsewhere a plain line every ten seconds. `on_snapshot` receives the same
    facts about once a second, for whoever watches from outside.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        on_snapshot: Callable[[StageSnapshot], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._on_snapshot = on_snapshot
        self._clock = clock
        self._live: Live | None = None
        self._lock = threading.RLock()  # a stage may be watched from a thread of its own
        self._stage: _Stage | None = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_live()

    def begin(self, stage: str, *, total: int | None, unit: str, done: int = 0) -> None:
        """Starts a stage that has `done` of its `total` units behind it already."""
        with self._lock:
            self._stop_live()
            self._stage = _Stage(stage, unit, total, done, self._clock())
            if self._console.is_terminal:
                self._live = Live(console=self._console, transient=True, auto_refresh=False)
                self._live.start()
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
            elapsed = duration(self._clock() - self._stage.started)
            name = self._stage.name
            self._show(force=True, silent=True)
            self._stop_live()
            self._stage = None
            self._console.print(f"[green]✓[/green] {name}  {_plain(summary)}  [dim]({elapsed})[/dim]")

    def note(self, text: str) -> None:
        """Prints a line that stays, above the bar if there is one."""
        with self._lock:
            self._console.print(_plain(text))

    def _show(self, *, force: bool, silent: bool = False) -> None:
        stage, now = self._stage, self._clock()
        assert stage is not None
        if self._on_snapshot and (force or now - stage.snapshot_at >= SNAPSHOT_EVERY_S):
            stage.snapshot_at = now
            self._on_snapshot(stage.snapshot(now))
        if silent:
            return
        if self._live is not None:
            self._live.update(_bar(stage.snapshot(now)), refresh=True)
        elif force or now - stage.line_at >= PLAIN_LINE_EVERY_S:
            stage.line_at = now
            self._console.print(_plain(stage.snapshot(now).line()))

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class _Stage:
    def __init__(self, name: str, unit: str, total: int | None, done: int, now: float) -> None:
        self.name, self.unit, self.total, self.done, self.detail = name, unit, total, done, ""
        self.started = now
        self.line_at = self.snapshot_at = now
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
        return StageSnapshot(self.name, self.unit, self.done, self.total, rate, eta, self.detail, now - self.started)


def snapshot_json(snapshot: StageSnapshot, *, at: float) -> bytes:
    """The snapshot as JSON with the wall-clock time it was taken, for the run's folder."""
    return json.dumps({**asdict(snapshot), "at": at}).encode()


def duration(seconds: float) -> str:
    """A duration as people read it: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _bar(snapshot: StageSnapshot) -> Table:
    row = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=snapshot.total or None, completed=snapshot.done, width=24, pulse=not snapshot.total)
    row.add_row(f"[bold]{snapshot.stage}[/bold]", bar, _plain(snapshot.line().removeprefix(snapshot.stage).strip()))
    return row


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
