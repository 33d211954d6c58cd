"""One driver a run: its records, what it may commit, and how it is told to stop; on disk and on S3."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from object_store import ObjectStore

from infra.errors import CredentialsRefused, FixedCredentialsRefused
from infra.lease import Lease, hold
from infra.progress import Progress
from infra.storage import Storage, storage_of
from orchestrator.driver import LOOK_EVERY_S, Driver, LeaseLost, watching
from orchestrator.records import (
    Event,
    ask_to_stop,
    begin_drive,
    encode,
    end_drive,
    ending_of,
    newest_drive,
    read_events,
    read_standing,
    record_event,
)
from orchestrator.run_state import RunState, StopMode


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return storage_of(tmp_path / "run")
    store: ObjectStore = request.getfixturevalue("store")
    return storage_of(store.url(f"driver-{uuid4().hex}"))


def driver_of(folder: Storage, *, is_held: bool = True) -> Driver:
    drive = begin_drive(folder, "train")
    return Driver(folder, drive, Lease(lambda: is_held), Progress(io.StringIO()), Path("logs"))


def test_each_drive_has_a_number_of_its_own_even_at_the_same_moment(folder: Storage):
    with ThreadPoolExecutor(8) as pool:
        drives = list(pool.map(lambda _: begin_drive(folder, "train"), range(8)))
    assert sorted(drive.number for drive in drives) == list(range(1, 9))
    newest = newest_drive(folder)
    assert newest is not None and newest.number == 8


def test_a_drives_first_ending_stays(folder: Storage):
    drive = begin_drive(folder, "train")
    assert end_drive(folder, drive, RunState.STOPPED, "first")
    assert not end_drive(folder, drive, RunState.DONE, "late")
    ending = ending_of(folder, drive.number)
    assert ending is not None and (ending.state, ending.reason) == (RunState.STOPPED, "first")


def test_what_a_driver_that_was_taken_over_writes_late_changes_nothing(folder: Storage):
    folder.write_bytes("run.json", encode({"name": "birds", "created": 1.0}))
    old, new = driver_of(folder), driver_of(folder)
    new.commit("stages/build.json", {"made_from": "new"})
    end_drive(folder, new.drive, RunState.DONE, "all")
    with pytest.raises(LeaseLost, match="taken over by driver 2"):
        old.commit("stages/build.json", {"made_from": "old"})
    end_drive(folder, old.drive, RunState.FAILED, "late")
    assert b'"new"' in folder.read_bytes("stages/build.json")
    assert read_standing(folder).state is RunState.DONE


def test_a_driver_without_its_lease_commits_nothing(folder: Storage):
    with pytest.raises(LeaseLost, match="the lease was lost"):
        driver_of(folder, is_held=False).commit("stages/build.json", {})
    assert not folder.exists("stages/build.json")


def test_a_driver_commits_again_what_it_or_an_earlier_one_has(folder: Storage):
    first = driver_of(folder)
    first.commit("stages/build.json", {"made_from": 1})
    first.commit("stages/build.json", {"made_from": 2})
    driver_of(folder).commit("stages/build.json", {"made_from": 3})
    assert b'"made_from": 3' in folder.read_bytes("stages/build.json")


def test_a_living_driver_is_seen_and_a_dead_one_is_lost(folder: Storage):
    folder.write_bytes("run.json", encode({"name": "birds", "created": 1.0}))
    assert read_standing(folder).state is RunState.QUEUED
    with hold(folder, print):
        drive = begin_drive(folder, "train")
        assert read_standing(folder).state is RunState.RUNNING
        ask_to_stop(folder, drive.number, StopMode.CHECKPOINT)
        assert read_standing(folder).state is RunState.STOPPING
    assert read_standing(folder).state is RunState.LOST  # it gave the lease back without an ending
    end_drive(folder, drive, RunState.STOPPED, "asked to")
    assert read_standing(folder).state is RunState.STOPPED


@pytest.mark.parametrize(("mode", "expected"), [(StopMode.CHECKPOINT, SystemExit), (StopMode.NOW, KeyboardInterrupt)])
def test_a_request_to_stop_is_seen_within_seconds(folder: Storage, mode: StopMode, expected: type[BaseException]):
    drive = begin_drive(folder, "train")
    ask_to_stop(folder, drive.number, mode)
    began = time.monotonic()
    with pytest.raises(expected), watching(folder, drive, Lease(lambda: True), print):
        time.sleep(30)
    assert time.monotonic() - began < 10


def test_a_request_to_an_earlier_drive_does_not_stop_a_later_one(folder: Storage):
    ask_to_stop(folder, begin_drive(folder, "train").number, StopMode.NOW)
    with watching(folder, begin_drive(folder, "train"), Lease(lambda: True), print) as watch:
        time.sleep(3)
    assert watch.stop is None


def test_a_driver_whose_lease_is_lost_is_interrupted(folder: Storage):
    drive = begin_drive(folder, "a")
    with pytest.raises(KeyboardInterrupt), watching(folder, drive, Lease(lambda: False), print) as watch:
        time.sleep(30)
    assert watch.is_lease_lost


def test_a_driver_whose_lease_ran_out_for_want_of_credentials_is_interrupted_or_asks_for_them(folder: Storage):
    drive, said = begin_drive(folder, "a"), list[str]()
    fixed = Lease(lambda: False, lambda: False, lambda: FixedCredentialsRefused("refused"))
    with pytest.raises(KeyboardInterrupt), watching(folder, drive, fixed, said.append) as watch:
        time.sleep(30)
    assert watch.refusal is not None and not watch.is_lease_lost and said == []
    renewable = Lease(lambda: False, lambda: False, lambda: CredentialsRefused("refused"))
    with watching(folder, drive, renewable, said.append):
        time.sleep(3 * LOOK_EVERY_S)
    assert said == ["waiting for new credentials: refused"]


def test_events_are_read_in_their_order(folder: Storage):
    for number in range(12):
        record_event(folder, Event(1000.0 + number, "ann", f"did {number}"))
    assert [event.what for event in read_events(folder)] == [f"did {number}" for number in range(12)]
