"""What waits between the thread that fetches and the one that decodes."""

import contextlib
import itertools
import os
import tracemalloc
from pathlib import Path

import pytest
from hostile_web import HostileWeb, Visit

from datapipe import body as body_module
from datapipe.backlog import MAX_WAITING_BYTES, Backlog, fetch_in_background
from datapipe.baton import Baton
from datapipe.body import MAX_IN_MEMORY_BYTES
from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest, FetchResult
from datapipe.status import SampleStatus

MIB = 1 << 20


class CountingFetcher:
    """Stands where a Fetcher would, and counts how often it is woken."""

    most_at_once = 64

    def __init__(self) -> None:
        self.waiting_bytes = 0
        self.times_woken = 0

    def wake(self) -> None:
        self.times_woken += 1


def test_the_fetcher_is_woken_once_when_half_has_room_again():
    fetcher = CountingFetcher()
    backlog = Backlog(fetcher)
    results = 0
    while not backlog.is_full():
        backlog.put(FetchResult(results, SampleStatus.HTTP_404))
        results += 1
    for taken in range(1, results + 1):
        backlog.get()
        backlog.tell_of_room()
        assert fetcher.times_woken == (taken > results / 2)
    assert not backlog.is_full()


def test_the_fetcher_is_woken_when_half_of_the_memory_is_free_again():
    fetcher = CountingFetcher()
    backlog = Backlog(fetcher)
    fetcher.waiting_bytes = MAX_WAITING_BYTES
    assert backlog.is_full()
    fetcher.waiting_bytes = MAX_WAITING_BYTES // 2
    backlog.tell_of_room()
    assert fetcher.times_woken == 0
    fetcher.waiting_bytes -= 1
    backlog.tell_of_room()
    assert fetcher.times_woken == 1 and not backlog.is_full()


def fetcher_into(scratch: Path) -> Fetcher:
    settings = {"input": "", "output": "", "allow_private_addresses": ["127.0.0.0/8"], "connections_per_host": 32}
    settings |= {"timeout": 5.0, "retries": 0}
    return Fetcher(BuildConfig.model_validate(settings), scratch=scratch)


def large_pictures(web: HostileWeb, number: int, size_bytes: int) -> list[FetchRequest]:
    body = b"x" * size_bytes
    return [FetchRequest(row, web.serve(f"/{row}", body)) for row in range(number)]


@pytest.mark.parametrize("size_bytes", [MIB, 6 * MIB], ids=["small", "large"])
def test_bodies_that_wait_together_take_no_more_memory_than_is_allowed(
    size_bytes: int, web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(body_module, "MAX_MEMORY_BYTES", 8 * MIB)
    requests = large_pictures(web, 32, size_bytes)
    with fetcher_into(tmp_path) as fetcher:
        tracemalloc.start()
        try:
            results = list(fetcher.fetch(requests))
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert fetcher.waiting_bytes <= fetcher.bytes_in_memory <= 8 * MIB and taken < 12 * MIB
        assert [len(result.body.take()) for result in results] == [size_bytes] * 32
        assert fetcher.bytes_in_memory == fetcher.waiting_bytes == 0


def test_hosts_that_stop_within_their_bodies_hold_up_no_other(tmp_path: Path):
    part = b"x" * (MAX_IN_MEMORY_BYTES - (64 << 10))
    hosts = MAX_WAITING_BYTES // len(part) + 1

    def stop_within(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + part)
        visit.hang()

    def answer_when_memory_is_held(visit: Visit) -> None:
        while fetcher.bytes_in_memory < MAX_WAITING_BYTES and not visit.is_closing.wait(0.01):
            pass
        visit.answer(b"picture")

    with HostileWeb(address="0.0.0.0") as web, fetcher_into(tmp_path) as fetcher:
        web.at("/slow", stop_within)
        good = [web.at(f"/{number}", answer_when_memory_is_held) for number in range(200)]
        slow = [f"http://127.0.1.{number}:{web.port}/slow" for number in range(hosts)]
        requests = [FetchRequest(row, url) for row, url in enumerate(good + slow)]
        with contextlib.closing(fetch_in_background(fetcher, requests, Baton(), 0)) as results:
            for result in itertools.islice(results, len(good)):
                assert result.status is SampleStatus.SUCCESS and result.body.take() == b"picture"
            assert fetcher.bytes_in_memory >= MAX_WAITING_BYTES and fetcher.waiting_bytes == 0
    assert fetcher.bytes_in_memory == fetcher.waiting_bytes == 0


def open_files_below(folder: Path) -> int:
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    return sum(link.startswith(str(folder)) for link in links)


def test_a_shard_that_is_given_up_leaves_no_file_and_no_memory_taken(web: HostileWeb, tmp_path: Path):
    requests = [*large_pictures(web, 60, 3 * MIB), FetchRequest(60, web.at("/hang", lambda visit: visit.hang()))]
    with fetcher_into(tmp_path) as fetcher:
        results = fetch_in_background(fetcher, requests, Baton(), 0)
        body = next(results).body
        assert open_files_below(tmp_path) > 0 and list(tmp_path.iterdir()) == []
        body.clear()
        results.close()
    assert open_files_below(tmp_path) == 0 and fetcher.bytes_in_memory == 0
