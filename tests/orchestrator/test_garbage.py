"""What nothing refers to is found and removed, and never the only good checkpoint; on disk and on S3."""

from pathlib import Path
from uuid import uuid4

import pytest
from object_store import ObjectStore

from infra.lease import hold
from infra.storage import Storage, storage_of
from orchestrator.garbage import GarbageKind, RunGarbage, collect_garbage
from orchestrator.records import begin_drive, encode, end_drive
from orchestrator.run_state import RunState
from training.checkpoint import CheckpointState, FileFacts, TensorKind, checkpoint_path, write_marker

CONTENT = b"weights"


@pytest.fixture(params=["disk", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A stopped run that keeps two checkpoints."""
    if request.param == "disk":
        root = storage_of(tmp_path / "runs")
    else:
        store: ObjectStore = request.getfixturevalue("store")
        root = storage_of(store.url(f"gc-{uuid4().hex}"))
    folder = root.at("birds")
    folder.write_bytes("run.json", encode({"name": "birds", "created": 1.0}))
    folder.write_bytes("run.yaml", b"name: birds\ntrain: {data: data, steps: 9, keep_checkpoints: 2}\n")
    end_drive(folder, begin_drive(folder, "train"), RunState.STOPPED, "by hand")
    return folder


def save(run: Storage, step: int, *, is_committed: bool = True, is_good: bool = True) -> None:
    import hashlib

    checkpoint = run.at(checkpoint_path(step))
    checkpoint.write_bytes("parameters.safetensors", CONTENT)
    if is_committed:
        digest = hashlib.sha256(CONTENT if is_good else b"others!").hexdigest()
        facts = {"parameters.safetensors": FileFacts(TensorKind.PARAMETERS, len(CONTENT), digest)}
        write_marker(checkpoint, CheckpointState(step, "diptych-tiny", "clip", 4, 40, 0, {}), facts)


def kinds(found: RunGarbage) -> dict[str, GarbageKind]:
    return {item.path: item.kind for item in found.found}


def test_torn_superseded_and_stray_ones_are_listed_and_then_removed(run: Storage):
    for step in (1, 2, 3):
        save(run, step)
    save(run, 4, is_committed=False)
    run.write_bytes(f"{checkpoint_path(3)}/parameters-of-another-attempt.safetensors", b"half")
    expected = {
        checkpoint_path(1): GarbageKind.SUPERSEDED,
        checkpoint_path(4): GarbageKind.TORN_CHECKPOINT,
        f"{checkpoint_path(3)}/parameters-of-another-attempt.safetensors": GarbageKind.STRAY_FILE,
    }
    before = [entry.path for entry in run.list_files(recursive=True)]
    assert kinds(collect_garbage(run, delete=False)) == expected
    assert [entry.path for entry in run.list_files(recursive=True)] == before
    assert kinds(collect_garbage(run, delete=True)) == expected
    assert collect_garbage(run, delete=False).found == ()
    left = {entry.path.split("/")[1] for entry in run.list_files("checkpoints", recursive=True)}
    assert left == {"step_00000002", "step_00000003"}


def test_what_a_user_has_put_among_the_checkpoints_is_no_garbage(run: Storage):
    for step in (1, 2, 3):
        save(run, step)
    own = ["best/checkpoint.json", "step_00000003.bak/parameters.safetensors", "notes.txt"]
    for path in own:
        run.write_bytes(f"checkpoints/{path}", CONTENT)
    assert kinds(collect_garbage(run, delete=True)) == {checkpoint_path(1): GarbageKind.SUPERSEDED}
    assert all(run.exists(f"checkpoints/{path}") for path in own)


def test_the_only_good_checkpoint_stays_when_newer_ones_are_damaged(run: Storage):
    save(run, 1)
    for step in (2, 3):
        save(run, step, is_good=False)
    assert collect_garbage(run, delete=True).found == ()
    assert run.exists(f"{checkpoint_path(1)}/checkpoint.json")


def test_a_run_that_somebody_drives_is_left_alone(run: Storage):
    save(run, 4, is_committed=False)
    with hold(run, print):
        begin_drive(run, "train")
        found = collect_garbage(run, delete=True)
    assert found.found == () and found.skipped.startswith("it is running")
    assert run.exists(f"{checkpoint_path(4)}/parameters.safetensors")


def test_what_dead_writers_left_is_found(run: Storage):
    if run.s3 is not None:
        import boto3

        boto3.client("s3").create_multipart_upload(Bucket=run.url.split("/")[2], Key=run.s3._key("a.bin")["Key"])
    else:
        run.local_path(".a.bin.0123abcd.partial").write_bytes(b"half")
    assert [item.kind for item in collect_garbage(run, delete=True).found] in (
        [GarbageKind.OPEN_UPLOAD],
        [GarbageKind.UNFINISHED_FILE],
    )
    assert collect_garbage(run, delete=False).found == ()
