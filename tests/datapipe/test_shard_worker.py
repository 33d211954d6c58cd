"""What a process that builds shards needs of its machine."""

import contextlib
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hostile_web import HostileWeb, Visit

from datapipe import shard_worker
from datapipe.backlog import fetch_in_background
from datapipe.baton import Baton
from datapipe.config import BuildConfig
from datapipe.fetch import Fetcher, FetchRequest
from datapipe.image import process_image
from datapipe.plan import ShardPlan
from datapipe.shard_worker import OTHER_OPEN_FILES, ShardWorker
from infra.errors import MachineError

CONNECTIONS = 16
LARGE = 3 << 20  # past what a body may take of the memory


def required_files(config: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many files a worker asks for a shard, those of other things left out."""
    asked: list[int] = []

    def refuse(needed: int) -> None:
        asked.append(needed)
        raise MachineError("too few")

    with monkeypatch.context() as patch:
        patch.setattr(shard_worker, "require_open_files", refuse)
        worker = ShardWorker(config, process_image, lambda _: 0, lambda *_: None, 1)
        with pytest.raises(MachineError):
            worker.build(ShardPlan(0, ()))
    return asked[0] - OTHER_OPEN_FILES


def count_links(start: str) -> int:
    """This process's open files whose names begin so."""
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    return sum(link.startswith(start) for link in links)


def test_the_files_of_large_bodies_are_asked_for_before_a_shard_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = {"input": "", "output": "", "allow_private_addresses": ["127.0.0.0/8"], "connections": CONNECTIONS}
    config = BuildConfig.model_validate(settings)
    is_measured = threading.Event()

    def stop_within(visit: Visit) -> None:
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * LARGE)
        is_measured.wait(20)

    with HostileWeb(address="0.0.0.0") as web, Fetcher(config, scratch=tmp_path) as fetcher:
        web.serve("/whole", b"x" * LARGE)
        web.at("/part", stop_within)
        paths = ["/whole"] * (CONNECTIONS // 2) + ["/part"] * CONNECTIONS
        urls = [f"http://127.0.0.{number}:{web.port}{path}" for number, path in enumerate(paths, 1)]
        requests = [FetchRequest(row, url) for row, url in enumerate(urls)]
        with contextlib.closing(fetch_in_background(fetcher, requests, Baton(), 0)) as results:
            next(results)  # the others wait for the decoder
            give_up = time.monotonic() + 20
            while (files := count_links(str(tmp_path))) < CONNECTIONS + CONNECTIONS // 2 - 1:
                assert time.monotonic() < give_up
                time.sleep(0.01)
            sockets = count_links("socket:") // 2  # the web has the other ends
            is_measured.set()
    assert files + sockets <= required_files(config, monkeypatch)


@pytest.mark.parametrize(("shards", "allowed", "at_once"), [(8, math.inf, 8), (8, 1024, 3), (2, 1024, 2), (8, 300, 1)])
def test_no_more_shards_are_built_at_once_than_may_have_their_files_open(
    shards: int, allowed: float, at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shard_worker, "allowed_open_files", lambda: allowed)
    monkeypatch.setattr(shard_worker, "require_open_files", lambda needed: None)
    together = threading.Barrier(at_once)
    most, under_way, lock = [0], [0], threading.Lock()

    def build_shard(*_: object, **__: object) -> None:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        together.wait(20)
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1

    monkeypatch.setattr(shard_worker, "build_shard", build_shard)
    worker = ShardWorker(BuildConfig(input="", output=""), process_image, lambda _: 0, lambda *_: None, shards)
    with ThreadPoolExecutor(shards) as threads:
        list(threads.map(worker.build, [ShardPlan(number, ()) for number in range(2 * at_once)]))
    assert most == [at_once]
