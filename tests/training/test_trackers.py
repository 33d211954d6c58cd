"""Trackers: what is sent is read back with the trackers' own readers."""

import math
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infra.errors import ConfigError
from infra.storage import Storage, storage_of
from training.config import Tracker, TrainConfig
from training.records import StepMetrics
from training.trackers import (
    OPENERS,
    PACKAGES,
    check_trackers,
    explained,
    open_trackers,
    scalars_of,
)


def config(*trackers: str) -> TrainConfig:
    return TrainConfig(data="unused", steps=5, trackers=list(trackers))


def metrics(step: int, **values: Any) -> StepMetrics:
    facts = {"loss": 3.0 / step, "logit_scale": 14.0, "lr": 0.5, "samples_per_s": 100.0, "epoch": 0.25, "attempt": 1}
    return StepMetrics(**facts | {"step": step, "time": 1000.0 + step, "seconds": {"wait": 0.125}} | values)


def test_numbers_go_by_their_groups_and_what_is_none_is_left_out():
    found = scalars_of(metrics(1, loss=math.nan, replaced=3))
    assert found == {
        "train/logit_scale": 14.0,
        "train/lr": 0.5,
        "train/epoch": 0.25,
        "speed/samples_per_s": 100.0,
        "data/replaced": 3.0,
        "seconds/wait": 0.125,
    }
    assert scalars_of(metrics(1, gradient_norm=2.0))["train/gradient_norm"] == 2.0


def log_steps(run: Storage, tracker: str, steps: range) -> None:
    with open_trackers(config(tracker), run, pytest.fail) as trackers:
        for step in steps:
            for each in trackers:
                each.log(metrics(step))


def test_tensorboard_reads_every_step_back_also_of_a_run_that_went_on(tmp_path: Path):
    log_steps(storage_of(tmp_path), "tensorboard", range(1, 4))
    log_steps(storage_of(tmp_path), "tensorboard", range(4, 6))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = found.Scalars("train/loss")
    assert [(each.step, each.wall_time) for each in losses] == [(step, 1000.0 + step) for step in range(1, 6)]
    assert [each.value for each in losses] == pytest.approx([3.0 / step for step in range(1, 6)])
    assert set(found.Tags()["scalars"]) == set(scalars_of(metrics(1)))


def test_tensorboard_writes_beside_a_run_in_a_store(store: ObjectStore, tmp_path: Path):
    run = Storage(store.url("tracked"))
    log_steps(run, "tensorboard", range(1, 4))
    (entry,) = run.list_files("tensorboard")
    (tmp_path / Path(entry.path).name).write_bytes(run.read_bytes(entry.path))
    assert len(EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")) == 3


def test_wandb_keeps_a_run_under_the_runs_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    log_steps(storage_of(tmp_path / "birds"), "wandb", range(1, 4))
    (kept,) = tmp_path.glob("wandb/offline-run-*/run-birds-*.wandb")
    deadline = time.monotonic() + 60
    while b"train/loss" not in kept.read_bytes():  # its writer is a process of its own
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_mlflow_goes_on_with_the_run_that_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracked.db")
    run = storage_of(tmp_path / "birds")
    for steps in (range(1, 3), range(3, 5)):
        log_steps(run, "mlflow", steps)
    (kept,) = mlflow.search_runs(experiment_names=["diptych"], output_format="list")
    assert [each.step for each in mlflow.MlflowClient().get_metric_history(kept.info.run_id, "train/loss")] == [
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize("tracker", list(Tracker))
def test_a_tracker_that_is_not_installed_is_refused_with_what_to_install(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, PACKAGES[tracker], None)  # type: ignore[arg-type] - as Python marks what is missing
    for refused in (
        lambda: check_trackers(config(tracker)),
        lambda: log_steps(storage_of(tmp_path), tracker, range(1)),
    ):
        with pytest.raises(ConfigError, match=rf"{tracker} is not installed(.*\n)*Run pip install {PACKAGES[tracker]}"):
            refused()


def test_without_trackers_there_is_nothing(tmp_path: Path):
    check_trackers(config())
    with open_trackers(config(), storage_of(tmp_path), pytest.fail) as trackers:
        assert trackers == []
    assert not list(tmp_path.iterdir())


LOGIN_CHECK = """
import traceback
from infra.errors import ConfigError
from infra.storage import storage_of
from training.config import TrainConfig
from training.trackers import check_tracker_logins, open_trackers

config = TrainConfig(data="unused", steps=5, trackers=["wandb"])
try:
    check_tracker_logins(config)
    with open_trackers(config, storage_of("run"), print) as trackers:
        print(len(trackers), "tracker")
except ConfigError as error:
    print(error)
    traceback.print_exc()
"""


@pytest.mark.usefixtures("logged_out")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "train.trackers: wandb has no login here (no API key is configured)."),
        ({"WANDB_API_KEY": "tooshort"}, "train.trackers: wandb has no login here (AuthenticationError: "),
        ({"WANDB_API_KEY": " tooshort"}, "train.trackers: wandb has no login here (UsageError: "),
        ({"WANDB_MODE": "ofline"}, "train.trackers: wandb refuses its settings here (mode: Input should be 'online', "),
        (
            {"WANDB_BASE_URL": "ftp://user:tooshort@example"},
            "train.trackers: wandb refuses its settings here (base_url: URL scheme should be 'http' or 'https').",
        ),
        ({"WANDB_MODE": "offline"}, "1 tracker"),
        ({"WANDB_MODE": "disabled"}, "1 tracker"),
    ],
)
def test_wandb_without_a_login_is_refused_and_never_asks(variables: dict[str, str], expected: str):
    # W&B keeps what it has found for the process, and asks on a terminal.
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0), open(follower, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", LOGIN_CHECK],
            env=os.environ | variables | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stdout.startswith(expected) and "tooshort" not in done.stdout + done.stderr, done.stderr


class Failing:
    """A tracker whose server is away, at its start or at its end."""

    def __init__(self, *_: object) -> None:
        raise ConnectionError("http://user:password@tracking.example refused")


class FailingAtTheEnd:
    """One that is there at first."""

    def __init__(self, *_: object) -> None:
        self.logged: list[StepMetrics] = []

    def log(self, metrics: StepMetrics) -> None:
        """Keeps it."""
        self.logged.append(metrics)

    def close(self) -> None:
        """The server is away by now."""
        raise TimeoutError("no answer\nwithin 30 s")


def test_a_tracker_whose_server_is_away_is_told_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(OPENERS, Tracker.MLFLOW, Failing)
    monkeypatch.setitem(OPENERS, Tracker.TENSORBOARD, FailingAtTheEnd)
    monkeypatch.setitem(sys.modules, PACKAGES[Tracker.MLFLOW], math)
    told: list[str] = []
    with open_trackers(config("mlflow", "tensorboard"), storage_of(tmp_path), told.append) as trackers:
        (left,) = trackers
        left.log(metrics(1))
    assert told == [
        "no metrics are sent to mlflow: ConnectionError",
        "the last metrics may be missing in FailingAtTheEnd: TimeoutError: no answer",
    ]


def test_an_error_without_words_is_told_by_its_kind():
    assert explained(ValueError()) == "ValueError" and explained(ValueError("odd")) == "ValueError: odd"
