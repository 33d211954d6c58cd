"""Names what stopped a group of workers: whose fault it was, on which rank, and in which words."""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from infra.errors import DiptychError, StorageFailed
from infra.place import Place
from infra.remote_errors import unwrapped
from infra.terminal import printable
from training.preemption import Preempted

MAX_LINES = 12
MAX_LINE = 300
# What ranks say whose partner has died: never the first cause.
COLLATERAL = re.compile(
    r"closed by peer|reset by peer|broken pipe|econnreset|socket timeout|timed out waiting|remote process exited|"
    r"connection (?:was )?(?:closed|refused|reset)",
    re.IGNORECASE,
)
# What Ray says of a dead actor before it says why.
RAYS_PREAMBLE = re.compile(
    r"The actor died unexpectedly before finishing this task\.|(?:class_name|actor_id|pid|name|namespace|ip): "
)
# Errors of Ray about a process or a machine that is not there any more, or does not answer.
INFRASTRUCTURE = (
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "NodeDiedError",
    "WorkerCrashedError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "PreemptionError",
    "NCCLHangError",
)


class FailureKind(StrEnum):
    """Whose fault a failure was: a machine's, or the program's, its data's and its settings'."""

    INFRASTRUCTURE = "infrastructure"
    APPLICATION = "application"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a group of workers ended. `step`: the one that was not reached. `lines`: the last words, oldest first."""

    kind: FailureKind
    step: int
    rank: int | None
    error: str
    lines: tuple[str, ...] = ()
    where: str = ""

    def __str__(self) -> str:
        who = "the workers' controller" if self.rank is None else f"rank {self.rank}"
        return f"{who}{self.where}, at step {self.step:,}: {self.error}"


def failure_of(error: BaseException, step: int) -> Failure:
    """The first cause of an error of Ray Train; `step` is the first that was not reached.

    A worker that is gone counts before errors of the others, which lost it; of errors, one that is not the loss of a
    partner.
    """
    found: Mapping[int, BaseException] = getattr(error, "worker_failures", None) or {}
    for rank, each in sorted(found.items()):
        if _is_infrastructure(each):
            return _failure(FailureKind.INFRASTRUCTURE, step, rank, each)
    for rank, each in sorted(found.items(), key=lambda item: bool(COLLATERAL.search(str(_inner(item[1]))))):
        kind = FailureKind.INFRASTRUCTURE if COLLATERAL.search(str(_inner(each))) else FailureKind.APPLICATION
        return _failure(kind, step, rank, each)
    inner = getattr(error, "controller_failure", None) or error
    kind = FailureKind.INFRASTRUCTURE if _is_infrastructure(inner) else FailureKind.APPLICATION
    return _failure(kind, step, None, inner)


def located(failure: Failure, places: Sequence[Place], dead_nodes: Set[str]) -> Failure:
    """The failure with the node of its rank, and whether that has died; `places` are those of the ranks, by rank."""
    if failure.rank is None or failure.rank >= len(places):
        return failure
    place = places[failure.rank]
    if place.node not in dead_nodes or failure.kind is not FailureKind.INFRASTRUCTURE:
        return replace(failure, where=f" on {place}")
    # What Ray says then is about connections that were refused.
    return replace(failure, where=f" on {place}", error=f"its node died ({failure.error.partition(':')[0]})")


def _failure(kind: FailureKind, step: int, rank: int | None, error: BaseException) -> Failure:
    inner = _inner(error)
    told = [
        line.strip()
        for line in (inner.found if isinstance(inner, DiptychError) else str(inner)).splitlines()
        if line.strip()
    ]
    first = next((line for line in told if not RAYS_PREAMBLE.match(line)), told[0] if told else "")
    if not isinstance(inner, DiptychError) or not first:
        first = f"{type(inner).__name__}: {first}"
    lines = [printable(line)[:MAX_LINE] for line in str(error).splitlines() if line.strip()]
    return Failure(kind, step, rank, printable(first)[:MAX_LINE], tuple(lines[-MAX_LINES:]))


def _is_infrastructure(error: BaseException) -> bool:
    inner = _inner(error)
    if isinstance(inner, StorageFailed | Preempted):
        return True
    return any(type(each).__name__ in INFRASTRUCTURE for each in (error, inner))


def _inner(error: BaseException) -> BaseException:
    """The error of ours or of the user's code inside what Ray Train made of it."""
    base = getattr(error, "_base_exc", None) or getattr(error, "health_check_failure", None)
    return unwrapped(error) or (base if isinstance(base, BaseException) else error)
