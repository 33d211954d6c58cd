"""Checkpoints: committed by their marker, passed over when they are not whole."""

from pathlib import Path

import pytest
import torch

from infra.errors import CorruptData
from infra.storage import Storage, storage_of
from training.checkpoint import (
    CheckpointState,
    committed_checkpoints,
    load_moments,
    load_parameters,
    newest_checkpoint,
    newest_intact_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
    sweep_uncommitted,
)


def save(run: Storage, step: int) -> str:
    state = CheckpointState(step, "diptych-tiny", "clip", 8, 100, 0, {"lr": 0.1})
    moments = {"a.weight": {"exp_avg": torch.ones(2, 3) * step, "exp_avg_sq": torch.zeros(2, 3)}}
    return save_checkpoint(run, state, {"a.weight": torch.full((2, 3), float(step))}, moments, {}, {})


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    run = storage_of(tmp_path / "run")
    for step in (10, 20, 30):
        save(run, step)
    return run


def test_what_is_saved_is_loaded(run: Storage):
    path = newest_checkpoint(run)
    assert path == "checkpoints/step_00000030"
    checkpoint = run.at(path)
    assert read_state(checkpoint).step == 30
    assert torch.equal(load_parameters(checkpoint)["a.weight"], torch.full((2, 3), 30.0))
    assert torch.equal(load_moments(checkpoint)["a.weight"]["exp_avg"], torch.full((2, 3), 30.0))


def test_without_its_marker_a_checkpoint_does_not_exist(run: Storage):
    run.delete("checkpoints/step_00000030/checkpoint.json")
    assert committed_checkpoints(run)[-1] == newest_checkpoint(run) == "checkpoints/step_00000020"
    with pytest.raises(CorruptData, match="no whole checkpoint"):
        read_state(run.at("checkpoints/step_00000030"))
    sweep_uncommitted(run)
    assert not run.local_path("checkpoints/step_00000030").exists()
    assert len(committed_checkpoints(run)) == 2


def test_a_cut_file_and_a_flipped_bit_are_passed_over_and_named(run: Storage):
    newest = run.local_path("checkpoints/step_00000030/moments.safetensors")
    newest.write_bytes(newest.read_bytes()[:-5])
    older = run.local_path("checkpoints/step_00000020/parameters.safetensors")
    older.write_bytes(older.read_bytes()[:-1] + b"\x01")
    path, problems = newest_intact_checkpoint(run)
    assert path == "checkpoints/step_00000010"
    assert "step_00000030" in problems[0] and "bytes" in problems[0]
    assert "step_00000020" in problems[1] and "SHA-256" in problems[1]


def test_a_run_without_checkpoints_has_none(tmp_path: Path):
    empty = storage_of(tmp_path)
    assert newest_checkpoint(empty) is None and newest_intact_checkpoint(empty) == (None, [])
    sweep_uncommitted(empty)


def test_only_the_newest_are_kept_and_never_none(run: Storage):
    prune_checkpoints(run, 2)
    assert committed_checkpoints(run) == ["checkpoints/step_00000020", "checkpoints/step_00000030"]
    prune_checkpoints(run, 1)
    prune_checkpoints(run, 1)
    assert committed_checkpoints(run) == ["checkpoints/step_00000030"]
