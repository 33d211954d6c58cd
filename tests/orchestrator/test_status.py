"""How runs stand whose records another version wrote, or that are damaged: told, and in nobody's way."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from other_user import as_other_user, public_folder

from infra.errors import InputError
from infra.progress import StageSnapshot
from infra.storage import Storage, storage_of
from orchestrator.cli import cli
from orchestrator.node_hours import NodeUse, write_uses
from orchestrator.records import Event, ask_to_stop, begin_drive, encode, end_drive, record_event
from orchestrator.run_state import RunState, StopMode
from orchestrator.status import StageState, read_status


def make_run(root: Path, name: str, created: float) -> Storage:
    folder = storage_of(root / name)
    folder.write_bytes("run.json", encode({"name": name, "created": created, "versions": {"diptych": "9.9"}}))
    folder.write_bytes("run.yaml", b"name: birds\ntrain: {data: data, model: diptych-tiny, steps: 9}\n")
    drive = begin_drive(folder, "train")
    snapshot = StageSnapshot("train", "steps", 3, 9, 1.5, 4.0, "loss 2.1", 2.0)
    folder.write_bytes(
        f"drives/{drive.number:04d}/progress.json",
        json.dumps({"stages": {"train": snapshot.to_json() | {"at": 5.0}}}).encode(),
    )
    write_uses(folder, drive.number, [NodeUse("train", 2, 1.0, 3600.0)])
    ask_to_stop(folder, drive.number, StopMode.NOW)
    end_drive(folder, drive, RunState.STOPPED, "by hand")
    record_event(folder, Event(1.0, "ann", "looked at it"))
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def test_what_a_later_version_adds_to_records_is_passed_over(tmp_path: Path):
    run = make_run(tmp_path, "birds", 1.0)
    for entry in run.list_files(recursive=True):
        if entry.path.endswith(".json"):
            raw = json.loads(run.read_bytes(entry.path)) | {"new_field": 1}
            for inner in (*raw.get("stages", {}).values(), *raw.get("uses", [])):
                inner["new_field"] = 1
            run.write_bytes(entry.path, encode(raw))
    status = read_status(run)
    assert (status.state, status.reason, status.node_hours) == (RunState.STOPPED, "by hand", 2.0)
    assert status.stages[0].snapshot is not None and status.stages[0].snapshot.done == 3


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("run.json", b""),
        ("run.json", b"[]"),
        ("run.json", b"{}"),
        ("drives/0001/start.json", b"\0\0"),
        ("drives/0001/end.json", b'{"state": "of a later version", "reason": "", "at": 1}'),
        ("events/0.json", b"{}"),
    ],
)
def test_a_run_that_cannot_be_read_is_told_and_hides_no_other(tmp_path: Path, path: str, content: bytes):
    make_run(tmp_path, "birds", 1.0)
    make_run(tmp_path, "cats", 2.0).write_bytes(path, content)
    listed = json.loads(call("runs", tmp_path, "--json").stdout)["runs"]
    assert [(run["name"], run["state"]) for run in listed] == [("birds", "stopped"), ("cats", "unreadable")]
    assert f"cats/{path} cannot be read as a record" in listed[1]["reason"] and listed[1]["created_at"] is None
    assert f"cats   unreadable -  -                      {tmp_path}/cats/{path}" in call("runs", tmp_path).stdout
    collected = call("gc", tmp_path, "--delete").stdout
    assert f"{tmp_path}/cats: left alone, unreadable: " in collected and f"{tmp_path}/birds\n" in collected
    told = CliRunner().invoke(cli, ["status", f"{tmp_path}/cats"])
    assert "cannot be read as a record" in str(told.exception)


def test_a_run_whose_config_a_later_version_wrote_shows_its_state_and_that_version(tmp_path: Path):
    run = make_run(tmp_path, "birds", 1.0)
    run.write_bytes("run.yaml", b"name: birds\ntrain: {data: data, steps: 9, new_key: 1}\n")
    status = read_status(run)
    assert status.state is RunState.STOPPED and status.version == "9.9"
    assert status.config_trouble is not None and "train.new_key is not a key of the config" in status.config_trouble
    assert [(stage.name, stage.state) for stage in status.stages] == [("train", StageState.UNFINISHED)]
    lines = call("status", run.url).stdout.splitlines()
    assert "version     made by diptych 9.9" in lines and lines[0].startswith("birds  stopped  (by hand)")
    assert "left alone, unreadable: train.new_key is not a key" in call("gc", tmp_path).stdout


def test_a_folder_that_may_not_be_read_is_told_and_hides_no_run():
    with public_folder() as root:
        make_run(root, "birds", 1.0)
        make_run(root, "private", 2.0)
        (root / "lost+found").mkdir()
        call("gc", root)  # imports what it needs
        for name in ("private", "lost+found"):
            (root / name).chmod(0)
        with as_other_user():
            listed = json.loads(call("runs", root, "--json").stdout)["runs"]
            collected = call("gc", root).stdout
            refused = [CliRunner().invoke(cli, [command, f"{root}/private"]) for command in ("status", "gc", "logs")]
        assert [(run["name"], run["state"]) for run in listed] == [
            ("birds", "stopped"),
            ("lost+found", "unreadable"),
            ("private", "unreadable"),
        ]
        assert listed[1]["reason"].startswith(f"{root}/lost+found/")
        assert listed[1]["reason"].endswith(" cannot be read (Permission denied).")
        assert f"{root}/private: left alone, unreadable: " in collected
        assert [type(result.exception) for result in refused] == [InputError] * 3
        root.chmod(0)
        with as_other_user():
            assert isinstance(CliRunner().invoke(cli, ["runs", str(root)]).exception, InputError)
        root.chmod(0o755)
