"""How a drive begins after a request to stop, and how it ends, whatever goes wrong around it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.errors import CredentialsRefused, FixedCredentialsRefused
from infra.storage import storage_of
from orchestrator.drive import driving
from orchestrator.driver import LOOK_EVERY_S, CredentialsEnded
from orchestrator.records import SUBMIT_EVENT, Event, encode, ending_of, read_standing, record_event
from orchestrator.run_log import LogReader
from orchestrator.run_state import RunState, StopMode
from orchestrator.stop import stop_run


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError(), "MemoryError"), (AssertionError(" \n"), "AssertionError")]
)
def test_a_failure_without_words_is_recorded_by_its_type(tmp_path: Path, error: Exception, reason: str):
    folder = storage_of(tmp_path / "run")
    with pytest.raises(type(error)), driving(folder, "train"):
        raise error
    ending = ending_of(folder, 1)
    assert ending is not None and (ending.state, ending.reason) == (RunState.FAILED, reason)


@pytest.mark.parametrize("kind", [CredentialsRefused, FixedCredentialsRefused])
def test_refused_credentials_end_a_run_that_is_under_way_with_what_to_do(
    tmp_path: Path, kind: type[CredentialsRefused]
):
    folder = storage_of(tmp_path / "run")
    refusal = kind(
        "s3://b/x: the storage refuses the credentials (ExpiredToken).", "They may have expired.", "Set new."
    )
    assert refusal.exit_code == 2  # as long as nothing was started, they are the user's mistake
    with pytest.raises(CredentialsEnded) as caught, driving(folder, "train"):
        raise refusal
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        "s3://b/x: the storage refuses the credentials (ExpiredToken). The run ended.\n"
        "They may have expired. What was committed is kept.\n"
        f"Set new.\nThen `diptych resume {folder.url}` goes on."
    )
    ending = ending_of(folder, 1)
    assert ending is not None and ending.state is RunState.FAILED and "ExpiredToken" in ending.reason


def test_a_stop_from_while_it_was_queued_counts_for_the_job_alone(tmp_path: Path):
    folder = storage_of(tmp_path / "run")
    folder.write_bytes("run.json", encode({"name": "birds", "created": 1.0}))
    assert stop_run(folder, StopMode.CHECKPOINT).state is RunState.STOPPED
    with pytest.raises(SystemExit), driving(folder, "train", is_submitted=True):
        time.sleep(30)
    assert read_standing(folder).state is RunState.STOPPED
    record_event(folder, Event(time.time(), "ann", SUBMIT_EVENT, "job birds-2", 2))
    assert stop_run(folder, StopMode.NOW).state is RunState.STOPPED
    with driving(folder, "train"):
        time.sleep(2 * LOOK_EVERY_S)
    assert read_standing(folder).state is RunState.DONE


DRIVES = """
import sys
from infra.progress_display import ProgressForm
from infra.storage import storage_of
from orchestrator.drive import driving
with driving(storage_of(sys.argv[1]), "train", ProgressForm(sys.argv[2])) as driver:
    driver.progress.begin("train", total=3, unit="steps")
    for step in range(3):
        driver.progress.note(f"step {step}")
    driver.progress.end("3 steps")
"""


@pytest.mark.parametrize(("form", "is_full"), [("auto", False), ("json", True)])
def test_a_reader_that_goes_away_and_a_full_disk_behind_standard_error_do_not_end_a_run(
    tmp_path: Path, form: str, is_full: bool
):
    folder = storage_of(tmp_path / "run")
    reader, lost = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") if is_full else open(lost, "w", closefd=False) as stderr:
        done = subprocess.run([sys.executable, "-c", DRIVES, folder.url, form], stdout=stderr, stderr=stderr)
    os.close(lost)
    ending = ending_of(folder, 1)
    assert done.returncode == 0 and ending is not None and ending.state is RunState.DONE
    lines = [line.partition("  ")[2] for line in LogReader(folder).new_lines()]
    assert [line for line in lines if line.startswith("step ")] == ["step 0", "step 1", "step 2"]
