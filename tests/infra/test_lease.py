"""The lease: one living driver a folder, and none after its death."""

import os
import subprocess
import sys
from pathlib import Path

from infra.lease import hold, holder_of
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
    assert len(said) == 1 and f"process {driver.pid} on {holder.host}, since 20" in said[0]
    assert holder_of(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_nobody_drove_has_no_holder(tmp_path: Path):
    assert holder_of(storage_of(tmp_path)) is None
