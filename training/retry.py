"""Decides whether a training that failed is started again: two budgets, filled up again by progress alone."""

from dataclasses import dataclass, replace

from training.failure import Failure, FailureKind


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How many failures in a row, without a new checkpoint between them, are got over; by whose fault they are."""

    infrastructure: int
    application: int


@dataclass(frozen=True, slots=True)
class RetryState:
    """What has been used up since step `saved`, the newest checkpoint at the last failure."""

    saved: int = 0
    infrastructure: int = 0
    application: int = 0
    last_error: Failure | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to start again, why, and what is remembered."""

    is_retry: bool
    why: str
    state: RetryState


def decide(rule: RetryRule, state: RetryState, failure: Failure, saved: int) -> Decision:
    """What to do after a failure, when the newest checkpoint is of step `saved`; time plays no part."""
    if saved > state.saved:
        # The last error is remembered: a step that fails over and over may have a checkpoint just before it.
        state = RetryState(saved=saved, last_error=state.last_error)
    if failure.kind is FailureKind.INFRASTRUCTURE:
        state = replace(state, infrastructure=state.infrastructure + 1)
        return _within(state.infrastructure, rule.infrastructure, "train.max_restarts", state)
    last = state.last_error
    state = replace(state, application=state.application + 1, last_error=failure)
    if last is not None and (last.step, last.error) == (failure.step, failure.error):
        return Decision(False, f"step {failure.step:,} failed twice with this very error", state)
    return _within(state.application, rule.application, "train.max_error_restarts", state)


def _within(used: int, allowed: int, key: str, state: RetryState) -> Decision:
    since = f"since the checkpoint of step {state.saved:,}" if state.saved else "without a checkpoint"
    if used <= allowed:
        return Decision(True, f"started again, {used} of {allowed} times {since} ({key})", state)
    return Decision(False, f"it had been started again {allowed} times {since} ({key})", state)
