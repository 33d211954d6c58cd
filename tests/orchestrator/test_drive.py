"""How a drive begins after a request to stop, and how it ends, whatever goes wrong around it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import diptych
from saved_checkpoints import save_weights
from small_datasets import make_dataset

from infra.errors import CredentialsRefused, FixedCredentialsRefused
from infra.storage import storage_of
from orchestrator.config import RunConfig, Stage, load_config
from orchestrator.drive import driving
from orchestrator.driver import LOOK_EVERY_S, CredentialsEnded
from orchestrator.records import SUBMIT_EVENT, Event, encode, ending_of, read_events, read_standing, record_event
from orchestrator.run import create_run
from orchestrator.run_log import LogReader
from orchestrator.run_state import RunState, StopMode
from orchestrator.stage_state import inputs_of
from orchestrator.stop import stop_run
from training.checkpoint import CheckpointState


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
from orchestrator.config import RunConfig, Stage, load_config
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


@pytest.fixture
def tracked(logged_out: None, tmp_path: Path) -> RunConfig:
    """A run that was handed to this machine, which has no login for its tracker."""
    data = make_dataset(tmp_path / "data", shards=1, rows=20)
    (tmp_path / "birds.yaml").write_text(
        f"storage: {tmp_path}/runs\n"
        f"train: {{data: {data}, model: diptych-tiny, steps: 9, global_batch_size: 4, trackers: [wandb]}}\n"
    )
    config = load_config(tmp_path / "birds.yaml")
    config.folder.write_bytes("run.yaml", config.to_yaml())
    create_run(config)
    return config


def test_a_missing_login_is_the_end_of_the_run_and_found_before_a_stage_begins(tracked: RunConfig, tmp_path: Path):
    done = diptych("run", tmp_path / "birds.yaml", "--submitted", cwd=tmp_path)
    assert done.returncode == 2 and "train.trackers: wandb has no login here" in done.stderr
    ending = ending_of(tracked.folder, 1)
    assert ending is not None and ending.state is RunState.FAILED
    assert ending.reason.startswith("train.trackers: wandb has no login here (no API key is configured).")
    assert "began a stage" not in [event.what for event in read_events(tracked.folder)]


def test_what_comes_after_the_training_asks_for_no_login_of_its_trackers(tracked: RunConfig, tmp_path: Path):
    state = CheckpointState(9, "diptych-tiny", "clip", 4, 36, 0, {})
    save_weights(tracked.folder, state, {"weight": torch.zeros(2)})
    made_from = inputs_of(Stage.TRAIN, tracked, tracked.folder)
    tracked.folder.write_bytes("stages/train.json", encode({"made_from": made_from}))
    done = diptych("resume", tracked.folder.url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_standing(tracked.folder).state is RunState.DONE


def test_what_a_submitted_run_lacks_on_its_cluster_is_its_end_and_of_another_run_nothing_is_left(tmp_path: Path):
    (tmp_path / "birds.yaml").write_text(
        f"storage: {tmp_path}/runs\nbuild: {{input: {tmp_path}/gone.parquet, output: {tmp_path}/birds}}\n"
    )
    config = load_config(tmp_path / "birds.yaml")
    assert diptych("run", tmp_path / "birds.yaml", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "runs").exists()
    config.folder.write_bytes("run.yaml", config.to_yaml())
    create_run(config)
    assert read_standing(config.folder).state is RunState.QUEUED
    done = diptych("run", tmp_path / "birds.yaml", "--submitted", cwd=tmp_path)
    assert done.returncode == 2 and "gone.parquet" in done.stderr
    standing = read_standing(config.folder)
    assert standing.state is RunState.FAILED and "gone.parquet" in standing.reason
