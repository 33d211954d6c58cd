"""Adds up where the time of a step goes, and says what to mend first."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from infra.storage import Storage
from training.records import LEDGER_FILE

if TYPE_CHECKING:
    from training.agreement import StepFacts

NANOSECONDS = 1e9
WAIT_SHARE_TO_MEND = 0.1
COMMUNICATION_SHARE_TO_MEND = 0.35
CHECKPOINT_SHARE_TO_MEND = 0.05


class Activity(StrEnum):
    """What a rank's main thread does. On a GPU its work goes on while the thread waits for it elsewhere."""

    WAIT = "wait"  # for the loader
    TRANSFER = "transfer"  # of pictures and tokens to the device
    COMPUTE = "compute"  # all of the step that is nothing else
    COMMUNICATION = "communication"  # with other ranks, waiting for the slowest included
    CHECKPOINT = "checkpoint"  # taking the copy; it is written in the background
    VALIDATION = "validation"


class Ledger:
    """One rank's times of the step under way, in nanoseconds."""

    def __init__(self) -> None:
        self._spent = dict.fromkeys(Activity, 0)

    @contextmanager
    def time(self, activity: Activity) -> Iterator[None]:
        """Counts the block as this activity."""
        began = time.perf_counter_ns()
        try:
            yield
        finally:
            self._spent[activity] += time.perf_counter_ns() - began

    def add(self, activity: Activity, nanoseconds: int) -> None:
        """Counts a time that was measured elsewhere."""
        self._spent[activity] += nanoseconds

    def take(self) -> dict[Activity, int]:
        """The times since the last call."""
        spent, self._spent = self._spent, dict.fromkeys(Activity, 0)
        return spent


@dataclass(frozen=True, slots=True)
class RankTimes:
    """Seconds of one rank over some steps. read, decode: of the loader's threads, beside the others."""

    rank: int
    steps: int
    wait: float
    transfer: float
    compute: float
    communication: float
    checkpoint: float
    validation: float
    read: float
    decode: float

    @property
    def total(self) -> float:
        """Seconds of the main thread."""
        return float(sum(getattr(self, activity.value) for activity in Activity))

    def share(self, activity: Activity) -> float:
        """This activity's share of the main thread's time."""
        return float(getattr(self, activity.value)) / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """Where the time of one start of the workers went, by rank, and what to mend first."""

    attempt: int
    advice: str
    ranks: tuple[RankTimes, ...]


def write_ledger(run: Storage, attempt: int, times: Sequence[RankTimes]) -> None:
    """Keeps the times of an attempt by now, in place of what was kept before."""
    record = LedgerRecord(attempt, what_to_mend(times), tuple(times))
    run.write_bytes(LEDGER_FILE, json.dumps(asdict(record), indent=1).encode())


def read_ledger(run: Storage) -> LedgerRecord | None:
    """What was kept last, or None."""
    if not run.exists(LEDGER_FILE):
        return None
    raw = json.loads(run.read_bytes(LEDGER_FILE))
    return LedgerRecord(raw["attempt"], raw["advice"], tuple(RankTimes(**times) for times in raw["ranks"]))


def add_facts(times: Sequence[RankTimes] | None, facts: "Sequence[StepFacts]") -> list[RankTimes]:
    """The ranks' sums with one more step; None: of the first step."""
    names = [*(activity.value for activity in Activity), "read", "decode"]
    before = times or [RankTimes(rank, 0, *[0.0] * len(names)) for rank in range(len(facts))]
    return [
        RankTimes(
            each.rank, each.steps + 1, *(getattr(each, name) + getattr(fact, name) / NANOSECONDS for name in names)
        )
        for each, fact in zip(before, facts, strict=True)
    ]


def what_to_mend(times: Sequence[RankTimes]) -> str:
    """One sentence of advice: what takes the most time that is not computing."""
    total = sum(each.total for each in times)
    if not total:
        return ""

    def share(activity: Activity) -> float:
        return float(sum(getattr(each, activity.value) for each in times)) / total

    if share(Activity.WAIT) > WAIT_SHARE_TO_MEND:
        read, decode = (sum(getattr(each, name) for each in times) for name in ("read", "decode"))
        slow = "reading: put the dataset on faster storage" if read > decode else "decoding: store smaller pictures"
        return (
            f"{100 * share(Activity.WAIT):.0f} % of the time is waiting for data, most of it {slow}, "
            "or give each worker more cores (train.threads_per_worker)."
        )
    if share(Activity.COMMUNICATION) > COMMUNICATION_SHARE_TO_MEND:
        return (
            f"{100 * share(Activity.COMMUNICATION):.0f} % of the time is communication and waiting for slower ranks: "
            f"{_slowest(times)}; a larger train.global_batch_size or a lower train.zero_stage needs less of it."
        )
    if share(Activity.CHECKPOINT) > CHECKPOINT_SHARE_TO_MEND:
        return (
            f"{100 * share(Activity.CHECKPOINT):.0f} % of the time is taking checkpoints: raise train.checkpoint_every."
        )
    return f"{100 * share(Activity.COMPUTE):.0f} % of the time is computing: nothing else is in the way."


def _slowest(times: Sequence[RankTimes]) -> str:
    slowest = max(times, key=lambda each: each.compute + each.wait)
    return f"rank {slowest.rank} computes longest ({slowest.compute / max(1, slowest.steps):.3f} s a step)"
