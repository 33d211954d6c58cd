"""A run's lines: each arrives once, over segments, drives and cut connections, until the run has ended."""

import threading
from pathlib import Path
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from object_store import ObjectStore
from store_client import UseStore

from infra.append_log import SEGMENT_BYTES
from infra.storage import Storage, storage_of
from orchestrator.records import begin_drive
from orchestrator.run_log import LineFile, LogReader, follow, open_log
from orchestrator.run_state import RunState, Standing


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return storage_of(tmp_path / "run")
    store: ObjectStore = request.getfixturevalue("store")
    return storage_of(store.url(f"log-{uuid4().hex}"))


def test_lines_arrive_once_whole_and_in_order(folder: Storage):
    reader, drive = LogReader(folder), begin_drive(folder, "train")
    with open_log(folder, drive.number) as log:
        lines = LineFile(log, clock=lambda: 0.0)
        lines.write("one\ntw")
        log.flush()
        assert list(reader.new_lines()) == ["1970-01-01 00:00:00  one"]
        lines.write("o\n")
        log.flush()
        assert list(reader.new_lines()) == ["1970-01-01 00:00:00  two"]
        assert list(reader.new_lines()) == []
    with open_log(folder, begin_drive(folder, "train").number) as log:
        log.write("of the second drive")
    assert list(reader.new_lines()) == ["of the second drive"]
    assert len(list(LogReader(folder).new_lines())) == 3


def test_a_follower_loses_and_doubles_nothing_while_segments_change_and_connections_are_cut(
    store: ObjectStore, use_store: UseStore
):
    with FaultProxy(store.endpoint) as proxy:
        use_store(store.environment(endpoint=proxy.endpoint))
        folder = storage_of(store.url(f"follow-{uuid4().hex}"))
        drive, said, is_done = begin_drive(folder, "train"), list[str](), threading.Event()
        expected = [f"line {number} {'x' * 4000}" for number in range(3 * SEGMENT_BYTES // 4000)]

        def write() -> None:
            try:
                with open_log(folder, drive.number) as log:
                    for number, line in enumerate(expected):
                        log.write(line)
                        if number % 300 == 0:
                            log.flush()
            finally:
                is_done.set()

        def standing() -> Standing:
            return Standing(RunState.DONE if is_done.is_set() else RunState.RUNNING, "")

        proxy.cut_body(3)
        proxy.reset(2, method="GET")
        proxy.slow_down(2)
        writer = threading.Thread(target=write)
        writer.start()
        assert follow(LogReader(folder), standing, said.append, pause_s=0.05).state is RunState.DONE
        writer.join()
        assert said == expected
        assert len(proxy.met) >= 6


def test_a_follower_whose_reader_went_away_ends_at_once(tmp_path: Path):
    folder = storage_of(tmp_path / "run")
    with open_log(folder, begin_drive(folder, "train").number) as log:
        log.write("one")

    def say(_line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow(LogReader(folder), lambda: Standing(RunState.RUNNING, ""), say)
