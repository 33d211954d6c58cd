"""Where the ranks of a running training tell the driver how they stand, and the driver tells them to stop."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import DiptychError
from infra.place import Place
from infra.terminal import printable

BEAT_EVERY_S = 0.5
SILENT_AFTER_S = 5.0
TELL_TIMEOUT_S = 10.0
DATA_PHASE = "waiting for data"  # in which a rank waits for no other one
STOP_NOTE = "the workers were asked to stop: they take a checkpoint first"
HUNG = 75  # the exit code of a worker that ends itself: a failure that may pass


@dataclass(frozen=True, slots=True)
class Beat:
    """What a rank tells, about twice a second. step counts from 1; lines are of the metrics file."""

    attempt: int
    rank: int
    step: int
    phase: str
    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BoardView:
    """What has come in since the driver last looked. silent: ranks that stopped telling, with their last words.

    places: of the ranks of the last group of workers that was started, by rank.
    """

    lines: tuple[str, ...]
    notes: tuple[str, ...]
    attempt: int
    silent: tuple[str, ...]
    failure: DiptychError | None
    places: tuple[Place, ...] = ()


@dataclass(slots=True)
class _Heard:
    beat: Beat
    at: float


@dataclass(slots=True)
class Board:
    """The board itself; lives in an actor of Ray."""

    clock: Callable[[], float] = time.monotonic
    heard: dict[int, _Heard] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    silent: tuple[str, ...] = ()
    attempt: int = 0
    must_stop: bool = False
    is_stop_heard: bool = False
    failure: DiptychError | None = None
    places: tuple[Place, ...] = ()

    def settle(self, places: Sequence[Place]) -> None:
        """A group of workers is up, with its ranks at these places."""
        self.places = tuple(places)

    def tell(self, beat: Beat) -> bool:
        """Takes a rank's beat; returns whether the training is to stop."""
        if beat.attempt > self.attempt:
            self.silent = self._silent_now()
            self.attempt, self.heard = beat.attempt, {}
        if beat.attempt == self.attempt:
            self.heard[beat.rank] = _Heard(beat, self.clock())
        self.lines += beat.lines
        self.notes += beat.notes
        if self.must_stop and not self.is_stop_heard:
            self.is_stop_heard = True
            self.notes.append(STOP_NOTE)
        return self.must_stop

    def fail(self, error: DiptychError) -> None:
        """All ranks have stopped for this reason."""
        self.failure = error

    def stop(self) -> None:
        """Asks the ranks to take a checkpoint and end."""
        self.must_stop = True

    def look(self) -> BoardView:
        """What is new, and how the ranks of the last attempt ended."""
        view = BoardView(tuple(self.lines), tuple(self.notes), self.attempt, self.silent, self.failure, self.places)
        self.lines, self.notes = [], []
        return view

    def _silent_now(self) -> tuple[str, ...]:
        if not self.heard:
            return ()
        newest = max(heard.at for heard in self.heard.values())
        return tuple(
            f"rank {rank} was silent for {newest - heard.at:.0f} s in step {heard.beat.step:,} ({heard.beat.phase})"
            for rank, heard in sorted(self.heard.items())
            if newest - heard.at > SILENT_AFTER_S
        )


class Heartbeat:
    """A rank's side: tells the board how it stands, in a thread of its own. Without a board nothing is told.

    A process that is stopped or dead falls silent; one whose training hangs goes on telling in which phase it is. In a
    phase in which it waits for no other rank it is ended after `hang_timeout_s`, for the group to be started again.
    """

    def __init__(self, board: Any | None, attempt: int, rank: int, hang_timeout_s: float) -> None:
        self._board = board
        self._place = (attempt, rank)
        self._hang_timeout_s = hang_timeout_s
        self._step, self._phase, self._since = 0, "starting", time.monotonic()
        self._lines: list[str] = []
        self._notes: list[str] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.must_stop = False

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(2 * TELL_TIMEOUT_S)
        self._tell()

    def at(self, step: int, phase: str) -> None:
        """Where the training is now."""
        self._step, self._phase, self._since = step, phase, time.monotonic()

    def line(self, line: str) -> None:
        """A line of the metrics, for the driver to show."""
        with self._lock:
            self._lines.append(line)

    def note(self, text: str) -> None:
        """A sentence for the user."""
        with self._lock:
            self._notes.append(printable(" ".join(text.splitlines())))

    def _run(self) -> None:
        while not self._over.wait(BEAT_EVERY_S):
            self._tell()
            silent_s = time.monotonic() - self._since
            if self._phase == DATA_PHASE and silent_s > self._hang_timeout_s:
                self.note(f"rank {self._place[1]} hung for {silent_s:.0f} s in step {self._step:,} ({self._phase})")
                self._tell()
                os._exit(HUNG)

    def _tell(self) -> None:
        import ray

        if self._board is None:
            return
        with self._lock:
            beat = Beat(*self._place, self._step, self._phase, tuple(self._lines), tuple(self._notes))
            self._lines, self._notes = [], []
        try:
            self.must_stop = bool(ray.get(self._board.tell.remote(beat), timeout=TELL_TIMEOUT_S))
        except ray.exceptions.RayError:
            # The display is not worth a training; the board may hear it next time.
            with self._lock:
                self._lines, self._notes = [*beat.lines, *self._lines], [*beat.notes, *self._notes]


def start_board() -> Any:
    """A board beside the driver on the connected Ray cluster; it ends with the driver, and with no other node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
