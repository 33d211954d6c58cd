"""When a failed request is tried again."""

import random

import pytest

from datapipe.retry import MAX_DELAY_S, PASSING, longest_url_s, retry_delay_s
from datapipe.status import SampleStatus

CHANCE = random.Random(7)


@pytest.mark.parametrize("status", sorted(set(SampleStatus) - PASSING))
def test_what_does_not_pass_is_not_tried_again(status: SampleStatus):
    assert retry_delay_s(status, 1, 5, None, CHANCE) is None


@pytest.mark.parametrize("status", sorted(PASSING))
def test_what_may_pass_is_tried_as_often_as_allowed(status: SampleStatus):
    assert retry_delay_s(status, 2, 2, None, CHANCE) is not None
    assert retry_delay_s(status, 3, 2, None, CHANCE) is None
    assert retry_delay_s(status, 1, 0, None, CHANCE) is None


def test_waits_grow_and_stay_bounded():
    delays = [retry_delay_s(SampleStatus.TIMEOUT, tries, 20, None, CHANCE) for tries in range(1, 21)]
    assert delays[0] <= 0.5 and all(0 < delay <= MAX_DELAY_S for delay in delays)


@pytest.mark.parametrize(("header", "delay"), [("0", 0), ("3", 3), ("99999", MAX_DELAY_S)])
def test_retry_after_is_taken_up_to_a_limit(header: str, delay: float):
    assert retry_delay_s(SampleStatus.HTTP_429, 1, 1, header, CHANCE) == delay


@pytest.mark.parametrize("header", ["-1", "soon", "Fri, 31 Dec 1999 23:59:59 GMT", "²", "9" * 5000])
def test_a_strange_retry_after_harms_nothing(header: str):
    delay = retry_delay_s(SampleStatus.HTTP_429, 1, 1, header, CHANCE)
    assert delay is not None and 0 <= delay <= MAX_DELAY_S


def test_the_longest_time_of_a_url_can_be_told():
    assert longest_url_s(10.0, 0) == 10.0 + MAX_DELAY_S
    assert longest_url_s(10.0, 2) == 3 * (10.0 + MAX_DELAY_S)
