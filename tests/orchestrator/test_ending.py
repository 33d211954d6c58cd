"""How a drive's ending is recorded, and that nothing which goes wrong with that hides it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from object_store import ObjectStore
from other_stores import moto_server
from store_client import UseStore

from infra.errors import ConfigError, DiptychError, InputError, MachineError, OutputError, StageFailed
from infra.s3_retry import PATIENCE_S
from infra.storage import storage_of
from orchestrator.drive import driving
from orchestrator.ending import WAITING
from orchestrator.records import ending_of
from orchestrator.run_log import LogReader
from orchestrator.run_state import RunState

FILLS_THE_DISK = """
import contextlib, sys
from pathlib import Path
from infra.storage import storage_of
from orchestrator import cli, drive

folder, disk = map(Path, sys.argv[1:])

def fill():
    with (disk / "fill").open("wb", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass

def fails(**_):
    with drive.driving(storage_of(folder), "train") as driver:
        fill()
        driver.progress.note("a line " * 2000)
        storage_of(disk).write_bytes("result", bytes(100_000))

cli.cli.main = fails
cli.main()
"""


def end_on_full_disk(folder: Path, disk: Path) -> str:
    done = subprocess.run([sys.executable, "-c", FILLS_THE_DISK, folder, disk], capture_output=True, text=True)
    assert done.returncode != 0
    return done.stderr


def test_a_full_disk_under_the_run_is_told_as_such(small_disk: Path):
    told = end_on_full_disk(small_disk / "run", small_disk)
    assert "error: The disk is full: writing " in told and "Traceback" not in told


def test_a_full_disk_under_the_logs_alone_leaves_the_ending_to_be_recorded(tmp_path: Path, small_disk: Path):
    (tmp_path / "run").mkdir()
    (small_disk / "logs").mkdir()
    (tmp_path / "run" / "logs").symlink_to(small_disk / "logs")
    told = end_on_full_disk(tmp_path / "run", small_disk)
    ending = ending_of(storage_of(tmp_path / "run"), 1)
    assert ending is not None and ending.state is RunState.FAILED and "The disk is full" in ending.reason
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("kind", "has_begun", "code"),
    [
        (OutputError, False, 2),
        (OutputError, True, 1),
        (InputError, True, 1),
        # A machine may be well the next time; a config is not.
        (MachineError, False, 1),
        (ConfigError, True, 2),
    ],
)
def test_what_goes_wrong_once_a_stage_has_begun_is_a_failure_and_no_mistake_of_the_command(
    tmp_path: Path, kind: type[DiptychError], has_begun: bool, code: int
):
    folder = storage_of(tmp_path / "run")
    with pytest.raises(DiptychError) as caught, driving(folder, "train") as driver:
        if has_begun:
            driver.begin_stage("train")
        raise kind("The disk is full.", "What is finished is kept.", "Free some space.")
    assert caught.value.exit_code == code and isinstance(caught.value, kind if code == 2 else StageFailed)
    assert str(caught.value) == "The disk is full.\nWhat is finished is kept.\nFree some space."
    assert getattr(caught.value, "__notes__", []) == ([] if code == 2 else [f"Logs: {folder.url}/logs"])
    ending = ending_of(folder, 1)
    assert ending is not None and (ending.state, ending.reason) == (RunState.FAILED, str(caught.value))


def test_an_interruption_while_the_storage_is_away_waits_for_one_short_time_and_says_so(
    use_store: UseStore, capfd: pytest.CaptureFixture[str]
):
    with ObjectStore(moto_server) as store:
        use_store(store.environment())
        folder = storage_of(store.url("runs/birds"))
        with pytest.raises(KeyboardInterrupt), driving(folder, "train") as driver:
            driver.progress.note("at work")
            store.kill()
            interrupted_at = time.monotonic()
            raise KeyboardInterrupt
    # Each of the seven requests had two minutes of its own.
    assert time.monotonic() - interrupted_at < PATIENCE_S
    assert WAITING in capfd.readouterr().err


def test_an_outage_at_the_end_of_a_run_costs_it_neither_its_ending_nor_its_last_lines(use_store: UseStore):
    with ObjectStore() as store:
        use_store(store.environment())
        folder = storage_of(store.url("runs/birds"))
        with driving(folder, "train") as driver:
            driver.progress.note("at work")
            store.kill()
            driver.progress.note("the last step")
            back = threading.Timer(5.0, store.restart)
            back.start()
        back.join()
        ending = ending_of(folder, 1)
        assert ending is not None and ending.state is RunState.DONE
        lines = [line.partition("  ")[2] for line in LogReader(folder).new_lines()]
        assert lines[-3:] == ["at work", "the last step", f"done: {ending.reason}"]


def test_an_interruption_is_recorded_at_once_where_the_storage_is_well(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    folder = storage_of(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt), driving(folder, "train"):
        raise KeyboardInterrupt
    ending = ending_of(folder, 1)
    assert ending is not None and (ending.state, ending.reason) == (RunState.STOPPED, "stopped by the user")
    assert WAITING not in capfd.readouterr().err
