"""Whether a failed training is started again, and what is named as the first cause."""

import pytest

from infra.errors import CorruptData, StorageFailed
from infra.place import Place
from training.failure import Failure, FailureKind, failure_of, located
from training.preemption import Preempted
from training.retry import RetryRule, RetryState, decide

RULE = RetryRule(infrastructure=2, application=1)


def lost(step: int = 5) -> Failure:
    return Failure(FailureKind.INFRASTRUCTURE, step, 0, "the actor died")


def error(step: int = 5, text: str = "ValueError: no") -> Failure:
    return Failure(FailureKind.APPLICATION, step, 0, text)


@pytest.mark.parametrize(
    ("failures", "retried"),
    [
        # (failure, step of the newest checkpoint then)
        ([(lost(), 0), (lost(), 0), (lost(), 0)], [True, True, False]),
        ([(lost(), 0), (lost(), 0), (lost(9), 6), (lost(9), 6), (lost(9), 6)], [True, True, True, True, False]),
        ([(error(5), 0), (error(7), 0)], [True, False]),
        ([(error(5), 0), (error(9), 6)], [True, True]),
        ([(error(5), 0), (error(5), 0)], [True, False]),
        ([(error(5), 0), (error(5), 4)], [True, False]),  # a checkpoint just before it makes it no other error
        ([(error(5), 0), (error(5, "KeyError: k"), 4)], [True, True]),
        ([(lost(), 0), (error(), 0), (lost(), 0)], [True, True, True]),  # each has a budget of its own
    ],
)
def test_budgets_are_filled_by_progress_and_the_same_error_at_the_same_step_stops(
    failures: list[tuple[Failure, int]], retried: list[bool]
):
    state, found = RetryState(), []
    for failure, saved in failures:
        decision = decide(RULE, state, failure, saved)
        state = decision.state
        found.append(decision.is_retry)
    assert found == retried


def test_a_decision_says_why():
    first = decide(RULE, RetryState(), error(), 0)
    assert first.why == "started again, 1 of 1 times without a checkpoint (train.max_error_restarts)"
    assert decide(RULE, first.state, error(), 0).why == "step 5 failed twice with this very error"
    assert "2 times since the checkpoint of step 6" in decide(RULE, RetryState(6, 2), lost(), 6).why


class ActorDiedError(Exception):
    """As Ray's own."""


class GroupError(Exception):
    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("Training failed due to worker errors")
        self.worker_failures = failures


PEER = RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    ("failures", "kind", "rank", "words"),
    [
        ({0: PEER, 1: ActorDiedError("killed")}, FailureKind.INFRASTRUCTURE, 1, "ActorDiedError: killed"),
        ({0: PEER, 1: ValueError("bad shape")}, FailureKind.APPLICATION, 1, "ValueError: bad shape"),
        ({0: PEER, 1: PEER}, FailureKind.INFRASTRUCTURE, 0, "RuntimeError: [../gloo"),
        ({1: StorageFailed("s3://b: away")}, FailureKind.INFRASTRUCTURE, 1, "s3://b: away"),
        ({1: Preempted("Rank 1 was asked to go")}, FailureKind.INFRASTRUCTURE, 1, "Rank 1 was asked to go"),
        ({2: CorruptData("00003.tar: bad")}, FailureKind.APPLICATION, 2, "00003.tar: bad"),
    ],
)
def test_the_first_cause_is_named_with_its_rank(
    failures: dict[int, Exception], kind: FailureKind, rank: int, words: str
):
    failure = failure_of(GroupError(failures), 7)
    assert (failure.kind, failure.rank, failure.step) == (kind, rank, 7)
    assert failure.error.startswith(words) and str(failure).startswith(f"rank {rank}, at step 7: {words}")


ACTOR_DIED = """The actor died unexpectedly before finishing this task.
	class_name: RayTrainWorker
	actor_id: 30992d7c421ba6d930c60a6f01000000
	pid: 4711
	ip: 10.0.0.7
The actor died because its node has died."""


@pytest.mark.parametrize(
    ("dead", "words"),
    [
        ({"b" * 56}, "its node died (ActorDiedError)"),
        (set(), "ActorDiedError: The actor died because its node has died."),
    ],
)
def test_a_worker_that_is_gone_is_named_with_its_node(dead: set[str], words: str):
    places = [Place("ant", "a" * 56, 1), Place("bee", "b" * 56, 4711)]
    failure = located(failure_of(GroupError({0: PEER, 1: ActorDiedError(ACTOR_DIED)}), 7), places, dead)
    assert str(failure) == f"rank 1 on node bbbbbbbbbbbb (bee), process 4711, at step 7: {words}"
    assert located(failure_of(GroupError({3: ActorDiedError("no")}), 7), places, dead).where == ""
