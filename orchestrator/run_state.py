"""Tells where a run stands from what its folder holds and its lease's age: pure, the same on every machine."""

from dataclasses import dataclass
from enum import StrEnum

from infra.object_lease import EXPIRES_AFTER_S
from infra.progress import duration


class RunState(StrEnum):
    """Where a run stands. Partial: what was asked for is done, and stages of its config are left."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    LOST = "lost"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    PARTIAL = "partial"
    DONE = "done"

    @property
    def is_ended(self) -> bool:
        """Whether nobody works on the run, and nobody will unless it is started again."""
        return self in ENDED

    @property
    def exit_code(self) -> int:
        """What a command that waits for the run ends with."""
        return EXIT_CODES.get(self, 0)


ENDED = frozenset({RunState.LOST, RunState.STOPPED, RunState.FAILED, RunState.PARTIAL, RunState.DONE})
EXIT_CODES = {RunState.LOST: 1, RunState.FAILED: 1, RunState.STOPPED: 130}


class StopMode(StrEnum):
    """How a run is to stop."""

    CHECKPOINT = "checkpoint"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class Drive:
    """One start of a run's driver. Numbers count from 1, and a later driver's is higher; `at` is Unix seconds."""

    number: int
    token: str
    who: str
    at: float
    command: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a driver ended; written once. `state` is one of stopped, failed, partial, done."""

    state: RunState
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Somebody's wish that a run stop."""

    mode: StopMode
    who: str
    at: float


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the state follows from. All but `created_at` are of the newest drive; None for what is not there.

    `retrying` is why the driver starts something again, until that gets on; `job` where the run was submitted to for a
    drive that has not begun.
    """

    created_at: float
    drive: Drive | None = None
    ending: Ending | None = None
    stop: StopRequest | None = None
    retrying: str | None = None
    lease_age_s: float | None = None
    job: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A state with its reason in words."""

    state: RunState
    reason: str


def standing_of(facts: RunFacts, now: float) -> Standing:
    """Where the run stands at `now` (Unix seconds).

    The newest drive counts: what an older one writes late changes nothing. Its ending, written once, is final.
    """
    drive = facts.drive
    if drive is None:
        return _not_started(facts, now)
    if facts.ending is not None:
        return Standing(facts.ending.state, facts.ending.reason)
    if facts.lease_age_s is None or facts.lease_age_s > EXPIRES_AFTER_S:
        return Standing(
            RunState.LOST,
            f"its driver ({drive.who}) died without a word; what it had committed is kept, and it can be resumed",
        )
    if facts.stop is not None:
        how = "without a checkpoint" if facts.stop.mode is StopMode.NOW else "after a checkpoint"
        since = duration(max(0.0, now - facts.stop.at))
        return Standing(RunState.STOPPING, f"{facts.stop.who} asked it {since} ago to stop {how}")
    if facts.retrying is not None:
        return Standing(RunState.RETRYING, facts.retrying)
    return Standing(RunState.RUNNING, f"driven by {drive.who}")


def _not_started(facts: RunFacts, now: float) -> Standing:
    since = duration(max(0.0, now - facts.created_at))
    if facts.stop is not None:
        return Standing(RunState.STOPPED, f"{facts.stop.who} stopped it before it began")
    job = f"; {facts.job} is to start it, and its output there says why if it can't" if facts.job else ""
    return Standing(RunState.QUEUED, f"created {since} ago and not started yet{job}")
