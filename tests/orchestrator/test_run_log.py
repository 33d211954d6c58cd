"""A run's lines: each arrives once, over segments, drives and cut connections, until the run has ended."""

import errno
import os
import threading
import time
from pathlib import Path
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from object_store import ObjectStore
from store_client import UseStore
from store_keys import file_environment, give_key, key_environment, take_key, write_credentials

from infra.append_log import SEGMENT_BYTES
from infra.errors import FixedCredentialsRefused, InputError
from infra.storage import Storage, storage_of
from orchestrator.records import begin_drive, encode, end_drive, read_standing
from orchestrator.run_log import LineFile, LogReader, follow, open_log
from orchestrator.run_state import Drive, RunState, Standing


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
        assert follow(LogReader(folder), standing, said.append, print, pause_s=0.05).state is RunState.DONE
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
        follow(LogReader(folder), lambda: Standing(RunState.RUNNING, ""), say, print)


class Looks:
    """Looks at how a run stands, and counts that."""

    def __init__(self, folder: Storage) -> None:
        self.folder = folder
        self.count = 0

    def __call__(self) -> Standing:
        """How it stands now."""
        self.count += 1
        return read_standing(self.folder)


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that would wait for seconds, and not for minutes."""
    monkeypatch.setattr("orchestrator.run_log.PATIENCE_S", 20.0)


def begin_run(folder: Storage) -> Drive:
    folder.write_bytes("run.json", encode({"name": "birds", "created": 1.0}))
    drive = begin_drive(folder, "train")
    with open_log(folder, drive.number) as log:
        log.write("one")
    return drive


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("record", [b"half a rec", b'{"state": "paused", "reason": "", "at": 1.0}'])
def test_a_record_that_cannot_be_read_here_is_told_at_once(folder: Storage, record: bytes):
    begin_run(folder)
    folder.write_bytes("drives/0001/end.json", record)
    looks, noted = Looks(folder), list[str]()
    with pytest.raises(InputError, match=r"end\.json cannot be read as a record"):
        follow(LogReader(folder), looks, print, noted.append)
    assert looks.count == 1 and noted == []


@pytest.mark.usefixtures("short_patience")
def test_a_key_of_the_environment_that_is_refused_is_told_at_once(store: ObjectStore, use_store: UseStore):
    key = give_key(store)
    use_store(key_environment(store.endpoint, key))
    folder = storage_of(store.url(f"log-{uuid4().hex}"))
    begin_run(folder)
    looks, noted, began = Looks(folder), list[str](), time.monotonic()
    take_key(store, key)
    for standing in (looks, lambda: Standing(RunState.RUNNING, "")):
        with pytest.raises(FixedCredentialsRefused):
            follow(LogReader(folder), standing, print, noted.append)
    assert looks.count == 1 and noted == [] and time.monotonic() - began < 15.0


def test_credentials_that_somebody_can_renew_are_waited_for_which_is_said_once(
    store: ObjectStore, use_store: UseStore, tmp_path: Path
):
    key = give_key(store)
    write_credentials(tmp_path / "credentials", key)
    use_store(file_environment(store.endpoint, tmp_path / "credentials"))
    folder = storage_of(store.url(f"log-{uuid4().hex}"))
    end_drive(folder, begin_run(folder), RunState.DONE, "all")
    said, noted, looks = list[str](), list[str](), Looks(folder)
    take_key(store, key)

    def look() -> Standing:
        if looks.count == 3:
            write_credentials(tmp_path / "credentials", give_key(store))
        return looks()

    assert follow(LogReader(folder), look, said.append, noted.append).state is RunState.DONE
    assert said == ["one"] and looks.count == 4
    assert len(noted) == 1 and noted[0].startswith("waiting for new credentials, 10 minutes at most: s3://")


def test_a_storage_that_is_away_is_waited_for_which_is_said_once(tmp_path: Path):
    folder = storage_of(tmp_path / "run")
    end_drive(folder, begin_run(folder), RunState.DONE, "all")
    said, noted, looks = list[str](), list[str](), Looks(folder)

    def look() -> Standing:
        standing = looks()
        if looks.count < 3:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return standing

    assert follow(LogReader(folder), look, said.append, noted.append).state is RunState.DONE
    assert said == ["one"]
    assert noted == ["waiting for the storage, 10 minutes at most: [Errno 116] Stale file handle"]
