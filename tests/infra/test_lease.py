"""The lease: one living driver a folder, and none after its death."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest
from other_user import as_other_user, public_folder

from infra.errors import CredentialsRefused, FixedCredentialsRefused, InputError, OutputError, StorageFailed
from infra.lease import Lease, hold, holder_of
from infra.storage import storage_of

HOLDER = """
import sys, time
from infra.lease import hold
from infra.storage import storage_of
with hold(storage_of(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_driver_says_who_drives_and_takes_over_once_that_one_is_dead(tmp_path: Path):
    folder, said = storage_of(tmp_path), list[str]()
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "held\n"
        holder = holder_of(folder)
        assert holder is not None and holder.pid == driver.pid

        def say(text: str) -> None:
            said.append(text)
            driver.kill()

        with hold(folder, say):
            mine = holder_of(folder)
            assert mine is not None and mine.pid == os.getpid()
    assert len(said) == 1 and f"process {driver.pid} on {holder.host}, since 20" in said[0] and " UTC)" in said[0]
    assert holder_of(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_who_waits_takes_the_place_over_also_where_its_folder_is_removed_meanwhile(tmp_path: Path):
    folder, is_waiting, is_removed, took = storage_of(tmp_path / "run"), Event(), Event(), list[bool]()

    def say(_text: str) -> None:
        is_waiting.set()
        is_removed.wait(30)

    def wait() -> None:
        with hold(folder, say):
            took.append(folder.exists("lease.json"))

    waiter = Thread(target=wait)
    with hold(folder, print):
        waiter.start()
        assert is_waiting.wait(30)
    (tmp_path / "run").rmdir()
    is_removed.set()
    waiter.join(30)
    assert took == [True]


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("infra.lease.fcntl.flock", no_locks)
    with pytest.raises(OutputError, match="knows no locks"), hold(storage_of(tmp_path), print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_finds_no_locks_leaves_the_lease_of_a_holder_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    folder = storage_of(tmp_path)
    with hold(folder, print):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("infra.lease.fcntl.flock", no_locks)
            with pytest.raises(OutputError, match="knows no locks"), hold(folder, print):
                pass
        mine = holder_of(folder)
        assert mine is not None and mine.pid == os.getpid()


def test_a_folder_that_nobody_drove_has_no_holder(tmp_path: Path):
    assert holder_of(storage_of(tmp_path)) is None


def test_a_lease_that_ran_out_is_waited_for_until_it_is_renewed_or_lost():
    looks = iter([False] * 5 + [True] * 5)
    assert Lease(lambda: next(looks), lambda: False).wait_until_held(60)
    assert not Lease(lambda: False, lambda: True).wait_until_held(60)
    assert not Lease(lambda: False, lambda: False, lambda: StorageFailed("away")).wait_until_held(0.5)


def test_only_for_credentials_that_can_be_renewed_a_lease_is_waited_for():
    refused, fixed = CredentialsRefused("refused"), FixedCredentialsRefused("refused")
    began = time.monotonic()
    with pytest.raises(CredentialsRefused):
        Lease(lambda: False, lambda: False, lambda: refused).wait_until_held(1.0)
    assert time.monotonic() - began >= 1.0
    with pytest.raises(FixedCredentialsRefused):
        Lease(lambda: False, lambda: False, lambda: fixed).wait_until_held(600.0)
    assert Lease(lambda: True, lambda: False, lambda: fixed).wait_until_held(600.0)
    assert not Lease(lambda: False, lambda: True, lambda: fixed).wait_until_held(600.0)  # lost is lost
    assert time.monotonic() - began < 60


def test_a_lease_that_cannot_be_looked_at_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = storage_of(tmp_path)
    folder.write_bytes("lease.json", b"")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("infra.lease.fcntl.flock", no_locks)
    with pytest.raises(InputError, match="its file system answers no locks"):
        holder_of(folder)


def test_places_that_may_not_be_read_or_written_are_told():
    with public_folder() as root:
        folder = storage_of(root / "run")
        folder.write_bytes("lease.json", b"{}")
        folder.write_bytes("a.json", b"{}")
        assert holder_of(folder) is None
        with hold(storage_of(root / "other"), print):
            pass  # imports what it needs
        with as_other_user():
            for path in (folder, folder.at("new")):
                with pytest.raises(OutputError, match="cannot be written"), hold(path, print):
                    pass
            with pytest.raises(OutputError, match="cannot be written"):
                folder.delete("a.json")
            with pytest.raises(OutputError, match="cannot be written"):
                storage_of(root).delete_folder("run")
        (root / "run").chmod(0)
        with as_other_user():
            for look in (holder_of, lambda place: place.read_bytes("a.json"), lambda place: place.exists("a.json")):
                with pytest.raises(InputError, match="cannot be read"):
                    look(folder)
            for look in (lambda place: place.list_files(), lambda place: place.open_input("a.json")):
                with pytest.raises(InputError, match="cannot be read"):
                    look(folder)


def test_a_lease_that_another_version_wrote_has_a_holder_who_is_not_known(tmp_path: Path):
    folder = storage_of(tmp_path)
    with hold(folder, print):
        folder.local_path("lease.json").write_bytes(b"[1]")
        assert holder_of(folder) is None
