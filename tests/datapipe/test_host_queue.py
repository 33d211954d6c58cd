"""Which request may start next."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from datapipe.host_queue import HostQueues


@dataclass(frozen=True)
class Job:
    host: str
    number: int = 0


def test_hosts_take_turns_and_none_runs_more_than_its_share():
    queues = HostQueues[Job](2)
    for number in range(4):
        queues.add(Job("busy", number))
    queues.add(Job("other"))
    started = [queues.next(0.0) for _ in range(4)]
    assert started == [Job("busy", 0), Job("other"), Job("busy", 1), None]
    queues.release("busy")
    assert queues.next(0.0) == Job("busy", 2)


def test_a_job_put_first_goes_before_those_that_wait():
    queues = HostQueues[Job](1)
    for number in range(3):
        queues.add(Job("host", number))
    queues.add(Job("host", 9), first=True)
    assert queues.next(0.0) == Job("host", 9)


def test_a_host_that_is_held_waits_and_others_go_on():
    queues = HostQueues[Job](4)
    queues.add(Job("held"))
    queues.add(Job("free"))
    queues.hold("held", 5.0)
    assert queues.next(0.0) == Job("free") and queues.next(4.9) is None
    assert queues.next_due() == 5.0 and queues
    assert queues.next(5.0) == Job("held") and not queues


def test_a_host_begins_no_more_than_its_rate():
    queues = HostQueues[Job](100, interval_s=0.5)
    for number in range(5):
        queues.add(Job("host", number))
    times = [tick / 10 for tick in range(40) if queues.next(tick / 10) is not None]
    assert len(times) == 5 and all(later - earlier >= 0.5 for earlier, later in pairwise(times))


def test_a_retry_waits_for_its_time():
    queues = HostQueues[Job](1)
    queues.add_later(Job("host"), 3.0)
    assert queues.next(2.9) is None and queues.next_due() == 3.0 and queues.next(3.0) == Job("host")


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 3), st.data())
def test_every_job_starts_once_and_no_host_has_too_many(hosts: list[int], per_host: int, data: st.DataObject):
    queues, running, started = HostQueues[Job](per_host), Counter[str](), list[Job]()
    jobs = [Job(str(host), number) for number, host in enumerate(hosts)]
    for job in jobs:
        queues.add(job)
    while queues or running.total():
        job = queues.next(0.0)
        if job is not None:
            started.append(job)
            running[job.host] += 1
            assert running[job.host] <= per_host
        elif running.total():
            done = data.draw(st.sampled_from(sorted(running.elements())))
            running[done] -= 1
            queues.release(done)
    assert sorted(started, key=lambda job: job.number) == jobs
