"""How long a request to S3 is tried: a minute of trouble costs nothing, and no request tires the others."""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from object_store import ObjectStore
from store_client import UseStore

from infra.s3_retry import LONGEST_PAUSE_S, PATIENCE_S, RetryRule, retry_rule
from infra.storage import storage_of

OUTAGE_S = 60.0
REQUEST_S = 30.0  # one that waits for an answer in vain may take so long beyond the patience


def sent_at(rule: RetryRule, request_s: float) -> list[float]:
    """When a request is sent that fails each time after so many seconds."""
    times, now, failed_at = list[float](), 0.0, None
    for attempt in count(1):
        times.append(now)
        now += request_s
        failed_at = now if failed_at is None else failed_at
        pause = rule.pause_s(attempt, now - failed_at)
        if pause is None:
            return times
        now += pause
    raise AssertionError


@pytest.mark.parametrize("request_s", [0.0, 1.0, REQUEST_S])
def test_a_request_outlives_an_outage_of_a_minute_whatever_the_pauses(request_s: float):
    for _ in range(200):
        times = sent_at(RetryRule(), request_s)
        assert any(OUTAGE_S <= time <= OUTAGE_S + LONGEST_PAUSE_S + request_s for time in times)
        assert times[-1] <= PATIENCE_S + LONGEST_PAUSE_S + 2 * request_s  # and it ends


def test_a_server_that_is_back_is_not_asked_by_all_at_once():
    assert len({RetryRule().pause_s(5, 0.0) for _ in range(100)}) > 50


def test_a_number_of_attempts_counts_instead_of_the_time(monkeypatch: pytest.MonkeyPatch):
    assert len(sent_at(RetryRule(attempts=3), 0.0)) == 3
    assert RetryRule(attempts=1).pause_s(1, 0.0) is None
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    assert retry_rule() == RetryRule() and str(retry_rule()) == "tried for 120 s"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    assert retry_rule() == RetryRule(5) and str(retry_rule()) == "tried 5 times"
    assert retry_rule(is_hasty=True) == RetryRule(2)


def test_many_requests_that_fail_together_are_all_got_over(object_store: ObjectStore, use_store: UseStore):
    """As many as a build's or a loader's threads make: botocore's own budget for all of them would be used up."""
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(endpoint=proxy.endpoint))
        storage = storage_of(object_store.url(f"retry-{uuid4().hex}"))
        storage.write_bytes("before", b"")
        proxy.refuse(4.0)
        with ThreadPoolExecutor(48) as pool:
            list(pool.map(lambda number: storage.write_bytes(f"{number}", b"x"), range(48)))
        assert len(storage.list_files()) == 49
