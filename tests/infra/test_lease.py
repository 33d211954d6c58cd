"""The lease: one living driver a folder, and none after its death."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.errors import CredentialsRefused, FixedCredentialsRefused, OutputError, StorageFailed
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


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("infra.lease.fcntl.flock", no_locks)
    with pytest.raises(OutputError, match="knows no locks"), hold(storage_of(tmp_path), print):
        pass
    assert list(tmp_path.iterdir()) == []


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
