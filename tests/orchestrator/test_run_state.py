"""Where a run stands: a table of what its folder may hold."""

import math

import pytest

from infra.object_lease import EXPIRES_AFTER_S
from orchestrator.run_state import Drive, Ending, RunFacts, RunState, StopMode, StopRequest, standing_of

NOW = 1_000.0
DRIVE = Drive(1, "token", "ann@one, process 7", 900.0)
STOP = StopRequest(StopMode.CHECKPOINT, "bob@two, process 8", 990.0)
ALIVE, OLDEST_ALIVE, EXPIRED, DEAD = 0.0, EXPIRES_AFTER_S, EXPIRES_AFTER_S + 1, math.inf


def ended(state: RunState) -> Ending:
    return Ending(state, "its reason", 950.0)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (RunFacts(900.0), RunState.QUEUED),
        (RunFacts(900.0, stop=STOP), RunState.STOPPED),
        (RunFacts(900.0, DRIVE, lease_age_s=ALIVE), RunState.RUNNING),
        (RunFacts(900.0, DRIVE, lease_age_s=OLDEST_ALIVE), RunState.RUNNING),
        (RunFacts(900.0, DRIVE, lease_age_s=EXPIRED), RunState.LOST),
        (RunFacts(900.0, DRIVE, lease_age_s=DEAD), RunState.LOST),
        (RunFacts(900.0, DRIVE, lease_age_s=None), RunState.LOST),
        (RunFacts(900.0, DRIVE, retrying="a worker died", lease_age_s=ALIVE), RunState.RETRYING),
        (RunFacts(900.0, DRIVE, retrying="a worker died", lease_age_s=DEAD), RunState.LOST),
        (RunFacts(900.0, DRIVE, stop=STOP, lease_age_s=ALIVE), RunState.STOPPING),
        (RunFacts(900.0, DRIVE, stop=STOP, retrying="a worker died", lease_age_s=ALIVE), RunState.STOPPING),
        (RunFacts(900.0, DRIVE, stop=STOP, lease_age_s=DEAD), RunState.LOST),
    ],
)
def test_the_state_follows_from_the_records_and_the_leases_age(facts: RunFacts, state: RunState):
    standing = standing_of(facts, NOW)
    assert standing.state is state and standing.reason


@pytest.mark.parametrize("state", [RunState.STOPPED, RunState.FAILED, RunState.PARTIAL, RunState.DONE])
@pytest.mark.parametrize("lease_age_s", [None, ALIVE, DEAD])
@pytest.mark.parametrize("stop", [None, STOP])
@pytest.mark.parametrize("retrying", [None, "a worker died"])
def test_an_ending_is_final_whatever_else_there_is(
    state: RunState, lease_age_s: float | None, stop: StopRequest | None, retrying: str | None
):
    standing = standing_of(RunFacts(900.0, DRIVE, ended(state), stop, retrying, lease_age_s), NOW)
    assert standing.state is state and standing.reason == "its reason"


def test_who_waits_for_a_run_learns_its_outcome_from_the_exit_code():
    assert {state: state.exit_code for state in RunState if state.is_ended} == {
        RunState.PARTIAL: 0,
        RunState.DONE: 0,
        RunState.FAILED: 1,
        RunState.LOST: 1,
        RunState.STOPPED: 130,
    }
