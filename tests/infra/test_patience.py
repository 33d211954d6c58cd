"""Trying again: for a bounded time, with growing pauses, and never for what trying does not mend."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import DiptychError, StorageFailed
from infra.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, persist


class Time:
    """A clock that goes on by sleeping alone."""

    def __init__(self) -> None:
        self.now, self.pauses = 100.0, list[float]()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


class Failing:
    """Fails so many times, then answers."""

    def __init__(self, times: float, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "done"


TROUBLE = StorageFailed("SlowDown")


def test_what_works_at_once_is_not_waited_for():
    time = Time()
    assert persist(Failing(0, TROUBLE), until=0.0, clock=time.clock, sleep=time.sleep) == "done"
    assert time.pauses == []


@given(st.integers(1, 12), st.sampled_from([TROUBLE, OSError("broken pipe"), DiptychError("x")]))
def test_pauses_double_up_to_the_longest_and_every_failure_is_told(times: int, error: Exception):
    time, told = Time(), list[Exception]()
    action = Failing(times, error)
    found = persist(action, until=10**6, on_trouble=told.append, clock=time.clock, sleep=time.sleep)
    assert found == "done" and action.calls == times + 1 and told == [error] * times
    for number, pause in enumerate(time.pauses):
        longest = min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S)
        assert longest / 2 <= pause <= longest


@given(st.floats(0, 500))
def test_it_ends_in_time_with_the_last_failure(patience_s: float):
    time, told = Time(), list[Exception]()
    action = Failing(1e9, TROUBLE)
    with pytest.raises(StorageFailed, match="SlowDown"):
        persist(action, until=100 + patience_s, on_trouble=told.append, clock=time.clock, sleep=time.sleep)
    assert time.now <= 100 + patience_s
    # The failure that ends it is raised, not told; and the time was made use of.
    assert len(told) == action.calls - 1 and time.now + LONGEST_PAUSE_S >= 100 + patience_s


def test_workers_that_fail_together_do_not_come_back_together():
    pauses = []
    for _ in range(20):
        time = Time()
        persist(Failing(1, TROUBLE), until=10**6, clock=time.clock, sleep=time.sleep)
        pauses += time.pauses
    assert len(set(pauses)) > 10


@pytest.mark.parametrize("error", [FileNotFoundError("x"), KeyError("a bug")])
def test_what_is_not_there_and_bugs_are_not_tried_again(error: Exception):
    time, action = Time(), Failing(1, error)
    with pytest.raises(type(error)):
        persist(action, until=10**6, clock=time.clock, sleep=time.sleep)
    assert action.calls == 1 and time.pauses == []


def test_with_the_machines_clock_it_takes_real_time():
    import time

    action, began = Failing(1, TROUBLE), time.monotonic()
    assert persist(action, until=began + 60) == "done"
    assert time.monotonic() - began >= FIRST_PAUSE_S / 2
