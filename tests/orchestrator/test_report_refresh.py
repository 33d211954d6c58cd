"""A report that is written while a run goes on: again and again, and never in the run's way."""

import threading
import time

import pytest

from infra.errors import CredentialsRefused, StageFailed
from orchestrator.driver import LeaseLost
from orchestrator.report_refresh import MAX_SHARE, refreshing_report

WITHIN_S = 20


class Writer:
    """Counts its calls; `fails` are the numbers of those that fail."""

    def __init__(self, *fails: int, seconds: float = 0.0) -> None:
        self.calls, self.times, self._fails, self._seconds = 0, [time.monotonic()], fails, seconds
        self.has_written_twice = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.times.append(time.monotonic())
        if self.calls >= 2:
            self.has_written_twice.set()
        threading.Event().wait(self._seconds)
        if self.calls in self._fails:
            raise ValueError("a picture of another planet")


def test_it_is_written_again_and_again_and_a_failure_is_said_once():
    writer, said = Writer(1, 2), []
    with refreshing_report(writer, said.append, every_s=0.05):
        assert writer.has_written_twice.wait(WITHIN_S)
    assert said == ["! the report is not up to date: a picture of another planet"]


def test_the_last_one_is_written_at_the_end_and_its_failure_is_said_and_not_raised():
    writer, said = Writer(1), []
    with refreshing_report(writer, said.append):
        assert writer.calls == 0
    assert writer.calls == 1 and said == ["! the report is not up to date: a picture of another planet"]


def test_one_that_takes_long_is_written_less_often():
    writer = Writer(seconds=0.02)
    with refreshing_report(writer, print, every_s=0.01):
        assert writer.has_written_twice.wait(WITHIN_S)
    assert writer.times[2] - writer.times[1] >= 0.02 / MAX_SHARE


@pytest.mark.parametrize(
    ("error", "calls"), [(StageFailed("no"), 1), (KeyboardInterrupt(), 0), (SystemExit(143), 0), (LeaseLost("no"), 0)]
)
def test_a_run_that_fails_has_it_written_and_one_that_is_stopped_does_not_wait_for_it(error: BaseException, calls: int):
    writer = Writer()
    with pytest.raises(type(error)), refreshing_report(writer, print):
        raise error
    assert writer.calls == calls


def test_a_refused_key_that_ends_the_block_is_not_told_a_second_time():
    calls, said = [], []
    refusal = CredentialsRefused("the storage refuses the credentials.", "They must allow it.", "Set new ones.")

    def write() -> None:
        calls.append(1)
        raise refusal

    with pytest.raises(CredentialsRefused), refreshing_report(write, said.append):
        raise refusal
    assert calls == [1] and said == []
    with refreshing_report(write, said.append):
        pass
    assert len(said) == 1  # the run has not ended of it, and tells nothing
