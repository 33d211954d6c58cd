"""The commands that look at runs and steer them, as a user calls them, without a cluster."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from commands import DIPTYCH
from object_store import ObjectStore
from other_stores import nanio
from store_client import UseStore

from infra.errors import ConfigError, DiptychError
from infra.lease import hold
from infra.storage import Storage, storage_of
from orchestrator.cli import cli
from orchestrator.config import RunConfig, load_config
from orchestrator.places import require_cluster_places
from orchestrator.records import (
    SUBMIT_EVENT,
    Event,
    begin_drive,
    end_drive,
    read_standing,
    record_event,
    stop_request_of,
)
from orchestrator.run import create_run, read_config, refuse_other_config
from orchestrator.run_log import LineFile, open_log
from orchestrator.run_state import RunState, StopMode
from orchestrator.stage_state import Verdict, plan_stages
from orchestrator.stages import configured_stages
from training.checkpoint import CheckpointState, FileFacts, TensorKind, checkpoint_path, newest_checkpoint, write_marker
from training.records import read_metrics

METRIC = {
    "loss": 1.0,
    "logit_scale": 14.0,
    "lr": 0.1,
    "samples_per_s": 1.0,
    "epoch": 0.1,
    "attempt": 1,
    "time": 1.0,
}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "birds.yaml").write_text(
        f"storage: {tmp_path}/runs\ntrain: {{data: {tmp_path}/data, model: diptych-tiny, steps: 9}}\n"
    )
    return load_config(tmp_path / "birds.yaml")


@pytest.fixture
def run(config: RunConfig) -> Storage:
    """A run that was created and not started."""
    config.folder.write_bytes("run.yaml", config.to_yaml())
    create_run(config)
    return config.folder


def save(run: Storage, step: int, *, content: bytes = b"weights", settings: dict[str, Any] | None = None) -> None:
    checkpoint = run.at(checkpoint_path(step))
    checkpoint.write_bytes("parameters.safetensors", content)
    facts = FileFacts(TensorKind.PARAMETERS, 7, hashlib.sha256(b"weights").hexdigest())
    state = CheckpointState(step, "diptych-tiny", "clip", 256, 40, 0, settings or {})
    write_marker(checkpoint, state, {"parameters.safetensors": facts})


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def record(*arguments: object) -> dict[str, Any]:
    result = call(*arguments, "--json")
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_runs_lists_those_below_a_storage_with_their_states(run: Storage, tmp_path: Path):
    (tmp_path / "runs" / "no-run").mkdir()
    listed = record("runs", tmp_path / "runs")["runs"]
    assert [(line["name"], line["state"]) for line in listed] == [("birds", "queued")]
    assert call("runs", tmp_path / "nowhere").output == "no runs\n"


@pytest.mark.parametrize(("state", "code"), [("done", 0), ("failed", 1), ("stopped", 130)])
def test_status_and_logs_end_with_the_runs_outcome(run: Storage, state: str, code: int):
    drive = begin_drive(run, "train")
    with open_log(run, drive.number) as log:
        log.write("a line")
        LineFile(log, clock=lambda: 1_700_000_000.25).write("shard  3\n")
    end_drive(run, drive, RunState(state), "its reason")
    told = call("status", run.url)
    assert told.exit_code == code and "its reason" in told.stdout.splitlines()[0]
    assert (f"{run.url}/logs" in told.stdout) == bool(code)
    followed = call("logs", run.url, "-f")
    assert followed.exit_code == code and followed.stdout == "a line\n2023-11-14 22:13:20  shard  3\n"
    assert call("logs", run.url).exit_code == 0
    as_json = call("logs", run.url, "-f", "--json")
    assert as_json.exit_code == code and [json.loads(line) for line in as_json.stdout.splitlines()] == [
        {"at": "", "text": "a line"},
        {"at": "2023-11-14T22:13:20+00:00", "text": "shard  3"},
        {"state": state, "reason": "its reason"},
    ]


def test_logs_to_a_full_disk_are_an_error_and_to_a_closed_pipe_are_none(run: Storage, tmp_path: Path):
    drive = begin_drive(run, "train")
    with open_log(run, drive.number) as log:
        for number in range(20_000):
            log.write(f"line {number}")
    end_drive(run, drive, RunState.DONE, "all")
    follow = [DIPTYCH, "logs", run.url, "-f"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(follow, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "Standard output cannot be written (No space left on device)" in done.stderr
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as piped:
        assert piped.stdout is not None and piped.stderr is not None and piped.stdout.readline() == "line 0\n"
        piped.stdout.close()
        assert piped.wait(timeout=60) and piped.stderr.read() == ""


def test_a_reason_without_words_and_numbers_without_end_are_told(run: Storage, tmp_path: Path):
    end_drive(run, begin_drive(run, "train"), RunState.FAILED, "")
    run.write_bytes("metrics.jsonl", json.dumps({**METRIC, "step": 1, "loss": None}).encode() + b"\n")
    assert call("status", run.url).stdout.startswith("birds  failed  (no reason was given)\n")
    assert call("runs", tmp_path / "runs").stdout.endswith("no reason was given\n")
    assert call("logs", run.url, "-f").stderr == "failed: no reason was given\n"
    assert record("status", run.url)["loss"] is None


def test_times_are_told_in_utc(run: Storage, tmp_path: Path):
    created = json.loads(run.read_bytes("run.json")) | {"created": 1_700_000_000.0}
    run.write_bytes("run.json", json.dumps(created).encode())
    told = subprocess.run(
        [DIPTYCH, "runs", tmp_path / "runs"], env=os.environ | {"TZ": "Asia/Tokyo"}, capture_output=True, text=True
    )
    assert " 2023-11-14 22:13:20 UTC " in told.stdout


def test_stop_writes_the_wish_and_tells_the_state(run: Storage):
    with hold(run, print):
        drive = begin_drive(run, "train")
        assert record("stop", run.url)["state"] == "stopping"
        assert record("stop", run.url, "--now")["state"] == "stopping"
    request = stop_request_of(run, drive.number)
    assert request is not None and request.mode is StopMode.NOW


def test_a_run_that_has_not_begun_is_stopped_before_it_does(run: Storage):
    assert record("stop", run.url, "--wait")["state"] == "stopped"
    assert stop_request_of(run, 1) is not None


def test_a_run_that_was_submitted_again_waits_for_its_next_driver_and_is_stopped_before_it(run: Storage):
    drive = begin_drive(run, "train")
    end_drive(run, drive, RunState.FAILED, "its reason")
    record_event(run, Event(1.0, "ann", SUBMIT_EVENT, "job birds-1", 1))  # the one that drove it
    assert read_standing(run).state is RunState.FAILED
    record_event(run, Event(2.0, "ann", SUBMIT_EVENT, "job birds-2", 2))
    standing = read_standing(run)
    assert standing.state is RunState.QUEUED and "job birds-2" in standing.reason
    assert record("stop", run.url)["state"] == "stopped" and stop_request_of(run, 2) is not None
    begin_drive(run, "train")
    assert read_standing(run).state is RunState.LOST


def test_an_ended_run_is_not_asked_to_stop(run: Storage):
    drive = begin_drive(run, "train")
    end_drive(run, drive, RunState.DONE, "all")
    assert record("stop", run.url)["state"] == "done" and stop_request_of(run, 1) is None


def test_a_resume_that_would_begin_at_step_0_beside_damaged_checkpoints_is_an_error(run: Storage):
    save(run, 3, content=b"short")
    result = call("resume", run.url)
    assert isinstance(result.exception, DiptychError) and "would start at step 0" in str(result.exception)
    assert read_standing(run).state is RunState.QUEUED


def test_a_shared_folder_without_a_cluster_to_share_it_is_refused(run: Storage):
    result = call("resume", run.url, "--shared-folder", "/mnt/shared")
    assert result.exit_code == 2 and "--shared-folder is for a run that is handed to a cluster" in result.output


def test_a_fork_has_the_checkpoint_the_records_before_it_and_the_changes(run: Storage):
    save(run, 3)
    lines = [json.dumps({**METRIC, "step": step}) for step in range(1, 6)]
    run.write_bytes("metrics.jsonl", "\n".join(lines).encode() + b"\n")
    made = storage_of(record("fork", run.url, "slower", "train.lr=0.25", "--step", 3)["run"])
    assert newest_checkpoint(made) == checkpoint_path(3)
    assert [metrics.step for metrics in read_metrics(made)] == [1, 2, 3]
    config = read_config(made)
    assert config.train is not None and config.train.lr == 0.25 and config.name == "slower"
    assert json.loads(made.read_bytes("run.json"))["forked_from"] == {
        "run": run.url,
        "step": 3,
        "changes": ["train.lr=0.25"],
    }
    assert read_standing(made).state is RunState.QUEUED


@pytest.mark.parametrize("copied", [0, 1, 2, 3])
def test_a_fork_that_was_killed_goes_on_with_the_same_arguments_only(run: Storage, copied: int, tmp_path: Path):
    save(run, 3)
    lines = [json.dumps({**METRIC, "step": step}) for step in range(1, 6)]
    run.write_bytes("metrics.jsonl", "\n".join(lines).encode() + b"\n")
    arguments = ["fork", run.url, "slower", "train.lr=0.25", "--step", 3]
    made = storage_of(record(*arguments)["run"])
    whole = {entry.path: made.read_bytes(entry.path) for entry in made.list_files(recursive=True)}
    last_first = ["run.yaml", f"{checkpoint_path(3)}/checkpoint.json", f"{checkpoint_path(3)}/parameters.safetensors"]
    for path in last_first[: len(last_first) - copied + 1]:
        made.delete(path)
    if copied == 0:
        made.write_bytes("metrics.jsonl", whole["metrics.jsonl"][:-20])
    elif copied == 1:
        made.write_bytes(last_first[2], b"others!")
    assert newest_checkpoint(made) == (checkpoint_path(3) if copied == 3 else None)
    assert isinstance(call("resume", made.url).exception, DiptychError)
    assert "slower" in [line["name"] for line in record("runs", tmp_path / "runs")["runs"]]
    other = call("fork", run.url, "slower", "--step", 3)
    assert "holds an unfinished fork of" in str(other.exception) and "step 3 with train.lr=0.25" in str(other.exception)
    assert record(*arguments)["run"] == made.url
    again = {entry.path: made.read_bytes(entry.path) for entry in made.list_files(recursive=True)}
    assert {path: data for path, data in again.items() if "events/" not in path} == {
        path: data for path, data in whole.items() if "events/" not in path
    }
    assert "is there already" in str(call(*arguments).exception)


def test_gc_lists_and_removes_an_unfinished_fork_that_nobody_makes(run: Storage, tmp_path: Path):
    save(run, 3)
    made = storage_of(record("fork", run.url, "slower", "--step", 3)["run"])
    made.delete("run.yaml")
    made.write_bytes(f"{checkpoint_path(3)}/.parameters.safetensors.0123abcd.partial", b"half")
    with hold(made, print):
        assert "it is being forked by" in call("gc", made.url, "--delete").stdout
    listed = {item["kind"] for item in record("gc", made.url)["runs"][0]["found"]}
    assert listed == {"unfinished fork"} and made.exists("run.json")
    assert "unfinished fork" in call("gc", tmp_path / "runs", "--delete").stdout
    assert not (tmp_path / "runs" / "slower").exists() and run.exists("run.json")


def test_gc_leaves_a_fork_alone_that_begins_once_the_lease_is_free(run: Storage, monkeypatch: pytest.MonkeyPatch):
    save(run, 3)
    made = storage_of(record("fork", run.url, "slower", "--step", 3)["run"])
    made.delete("run.yaml")

    @contextmanager
    def hold_and_then_fork(place: Storage, say: Callable[[str], None]) -> Iterator[None]:
        with hold(place, say):
            yield
        record("fork", run.url, "slower", "--step", 3)

    monkeypatch.setattr("orchestrator.garbage.hold", hold_and_then_fork)
    assert "unfinished fork" in call("gc", made.url, "--delete").stdout
    assert newest_checkpoint(made) == checkpoint_path(3) and read_config(made).name == "slower"
    assert read_standing(made).state is RunState.QUEUED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["slower", "--step", 4], "has no checkpoint of that step"),
        (["slower", "--step", 3, "train.model=ViT-B-32"], "train.model: got ViT-B-32"),
        (["birds", "--step", 3], "is there already"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(run: Storage, arguments: list[object], words: str):
    save(run, 3)
    result = call("fork", run.url, *arguments)
    assert isinstance(result.exception, DiptychError) and words in str(result.exception)


@pytest.mark.parametrize("marker", [b"", b'{"state"', b"[]", b'{"files": {"parameters.safetensors": {}}}'])
def test_a_fork_of_a_checkpoint_whose_marker_is_damaged_is_refused(run: Storage, marker: bytes):
    save(run, 3)
    run.write_bytes(f"{checkpoint_path(3)}/checkpoint.json", marker)
    result = call("fork", run.url, "slower", "--step", 3)
    assert isinstance(result.exception, ConfigError)
    assert f"{checkpoint_path(3)} is damaged: checkpoint.json cannot be read" in str(result.exception)


def test_a_fork_may_unlock_a_tower_where_its_first_updates_stay_small(run: Storage):
    save(run, 3, settings={"lock": {"image": True, "text": False}})
    refused = call("fork", run.url, "unlocked", "--step", 3, "train.beta2=0.999")
    assert isinstance(refused.exception, ConfigError)
    assert "the image tower was locked; with train.beta2 0.999 its first updates would be up to 6.6" in str(
        refused.exception
    )
    record("fork", run.url, "still-locked", "--step", 3, "train.beta2=0.999", "train.lock.image=true")
    record("fork", run.url, "unlocked", "--step", 3)


def test_a_name_with_another_config_is_refused_with_the_difference(run: Storage, config: RunConfig):
    refuse_other_config(config, run)
    assert config.train is not None
    free = config.model_copy(update={"train": config.train.model_copy(update={"workers": 2})})
    refuse_other_config(free, run)
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.5, "steps": 7})})
    with pytest.raises(DiptychError, match=r"train\.lr 0\.0005 → 0\.5; train\.steps 9 → 7"):
        refuse_other_config(other, run)


def test_a_job_is_not_given_places_that_the_nodes_do_not_see(config: RunConfig, tmp_path: Path):
    place = tmp_path / "birds.yaml"
    address = ["--address", "http://127.0.0.1:9"]
    refused = call("submit", place, *address)
    assert isinstance(refused.exception, ConfigError) and refused.exception.exit_code == 2
    assert f"storage {tmp_path}/runs, train.data {tmp_path}/data" in str(refused.exception)
    half = call("submit", place, "storage=s3://b/runs", *address)
    assert isinstance(half.exception, ConfigError) and f": train.data {tmp_path}/data." in str(half.exception)
    other = call("submit", place, *address, "--shared-folder", tmp_path / "data")
    assert isinstance(other.exception, ConfigError) and f": storage {tmp_path}/runs." in str(other.exception)
    assert not config.folder.exists("run.yaml")
    note = require_cluster_places(config, str(tmp_path))
    assert note == f"Every node of the cluster must see {tmp_path}/data, {tmp_path}/runs"
    in_bucket = load_config(place, ["storage=s3://b/runs", "train=null", f"build={{input: {place}, output: s3://b/d}}"])
    assert require_cluster_places(in_bucket, None) == f"Every node of the cluster must see {place}"


def test_config_prints_the_whole_config_and_its_schema(config: RunConfig, tmp_path: Path):
    shown = call("config", tmp_path / "birds.yaml", "train.steps=5").stdout
    (tmp_path / "again.yaml").write_text(shown)
    assert load_config(tmp_path / "again.yaml") == load_config(tmp_path / "birds.yaml", ["train.steps=5"])
    assert json.loads(call("config", "--schema").stdout)["properties"].keys() >= {"name", "storage", "train"}


def test_a_dry_run_says_what_is_done_and_why(config: RunConfig, tmp_path: Path):
    def verdicts(*overrides: str) -> list[tuple[str, Verdict]]:
        loaded = load_config(tmp_path / "birds.yaml", overrides)
        return [(plan.stage.value, plan.verdict) for plan in plan_stages(loaded, configured_stages(loaded))]

    from orchestrator.config import Stage
    from orchestrator.stage_state import inputs_of

    assert verdicts() == [("train", Verdict.TO_DO)]
    save(config.folder, 9)
    config.folder.write_bytes(
        "stages/train.json", json.dumps({"made_from": inputs_of(Stage.TRAIN, config, config.folder)}).encode()
    )
    assert verdicts() == [("train", Verdict.DONE)]
    assert verdicts("train.steps=10") == [("train", Verdict.STALE)]
    result = call("run", tmp_path / "birds.yaml", "train.steps=10", "--dry-run")
    assert "train     stale  done with another settings" in result.stdout
    assert not config.folder.exists("drives/0001/start.json")


def test_a_storage_that_ignores_conditions_is_refused_for_runs(use_store: UseStore, tmp_path: Path):
    with ObjectStore(nanio) as store:
        use_store(store.environment())
        (tmp_path / "birds.yaml").write_text(
            f"storage: {store.url('runs')}\ntrain: {{data: {tmp_path}/data, model: diptych-tiny, steps: 9}}\n"
        )
        from orchestrator.run import check_run

        with pytest.raises(DiptychError, match="ignores conditional writes"):
            check_run(load_config(tmp_path / "birds.yaml"))
