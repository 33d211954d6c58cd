"""The lease: one living driver a folder, and none after its death."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import MachineError
from infra.lease import hold, holder_of
from infra.storage import storage_of

HOLDER = """
import sys, time
from infra.lease import hold
from infra.storage import storage_of
with hold(storage_of(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_driver_is_refused_until_the_first_is_killed(tmp_path: Path):
    folder = storage_of(tmp_path)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None and driver.stdout.readline() == "held\n"
        holder = holder_of(folder)
        assert holder is not None and holder.pid == driver.pid
        with pytest.raises(MachineError, match=f"process {driver.pid}"), hold(folder):
            pass
        driver.kill()
    assert holder_of(folder) is None
    with hold(folder):
        pass


def test_a_folder_that_nobody_drove_has_no_holder(tmp_path: Path):
    assert holder_of(storage_of(tmp_path)) is None
