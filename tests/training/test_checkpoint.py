"""Checkpoints: committed by their marker, passed over when they are not whole, written in the background."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from infra.errors import CorruptData, StageFailed, StorageFailed
from infra.storage import Storage, storage_of
from training.best import Best, write_best
from training.cadence import Cadence, CadenceClock
from training.checkpoint import (
    CheckpointState,
    TensorKind,
    checkpoint_path,
    committed_checkpoints,
    hash_problem,
    load_moments,
    load_tensors,
    newest_checkpoint,
    newest_whole_checkpoint,
    problem_of,
    read_files,
    read_state,
    step_of,
)
from training.checkpoint_keep import KeepRule, prune_checkpoints, sweep_uncommitted
from training.checkpoint_part import CheckpointPart, PartName, owners_of
from training.checkpoint_writer import CheckpointWriter, WriterSettings
from training.start import agreed_checkpoint
from training.tensor_file import write_tensors


def state(step: int) -> CheckpointState:
    return CheckpointState(step, "diptych-tiny", "clip", 8, 100, 0, {"lr": 0.1}, skipped=1, losses=(1.5, 1.25))


def part(step: int, rank: int = 0) -> CheckpointPart:
    part = CheckpointPart()
    part.tensors[TensorKind.PARAMETERS][f"{rank}.weight"] = torch.full((2, 3), float(step))
    part.tensors[TensorKind.MOMENTS][f"{rank}.weight/exp_avg"] = torch.ones(2, 3) * step
    part.tensors[TensorKind.MOMENTS][f"{rank}.weight/exp_avg_sq"] = torch.zeros(2, 3)
    return part


def writer(
    run: Storage,
    rank: int = 0,
    ranks: int = 1,
    *,
    keep: int = 9,
    patience_s: float = 20.0,
    said: list[str] | None = None,
) -> CheckpointWriter:
    name, settings = PartName("0001abc", rank, ranks), WriterSettings(KeepRule(keep), patience_s)
    return CheckpointWriter(run, name, settings, say=(said if said is not None else []).append)


def save(run: Storage, step: int) -> None:
    write = writer(run)
    write.begin(state(step), part(step))
    write.finish()


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    run = storage_of(tmp_path / "run")
    for step in (10, 20, 30):
        save(run, step)
    return run


def file_of(run: Storage, step: int, kind: TensorKind) -> Path:
    checkpoint = run.at(f"checkpoints/step_{step:08d}")
    return next(checkpoint.local_path(name) for name, facts in read_files(checkpoint).items() if facts.kind is kind)


def test_what_is_saved_is_loaded_and_nothing_else_is_left(run: Storage):
    path = newest_checkpoint(run)
    assert path == "checkpoints/step_00000030"
    checkpoint = run.at(path)
    assert read_state(checkpoint) == state(30)
    assert torch.equal(load_tensors(checkpoint, TensorKind.PARAMETERS)["0.weight"], torch.full((2, 3), 30.0))
    assert torch.equal(load_moments(checkpoint)["0.weight"]["exp_avg"], torch.full((2, 3), 30.0))
    assert load_tensors(checkpoint, TensorKind.AVERAGE) == {}
    files = {entry.path for entry in checkpoint.list_files(recursive=True)}
    assert files == {*read_files(checkpoint), "checkpoint.json"} and hash_problem(checkpoint) is None


def test_ranks_write_their_parts_and_the_marker_waits_for_all(tmp_path: Path):
    run = storage_of(tmp_path)
    writers = [writer(run, rank, 3) for rank in range(3)]
    for rank in (0, 2):
        writers[rank].begin(state(5), part(5, rank))
    writers[2].finish()
    assert writers[0].is_busy and committed_checkpoints(run) == []
    writers[1].begin(state(5), part(5, 1))
    writers[0].finish()
    parameters = load_tensors(run.at("checkpoints/step_00000005"), TensorKind.PARAMETERS)
    assert sorted(parameters) == ["0.weight", "1.weight", "2.weight"]


def test_a_rank_whose_part_does_not_come_costs_the_checkpoint_and_no_more(tmp_path: Path):
    run, said = storage_of(tmp_path), []
    save(run, 4)
    first = writer(run, 0, 2, patience_s=0.5, said=said)
    first.begin(state(5), part(5))
    with pytest.raises(StageFailed, match="another rank's part"):
        first.finish()
    assert committed_checkpoints(run) == ["checkpoints/step_00000004"] and "step 5 is given up" in said[0]
    sweep_uncommitted(run)
    assert not run.local_path("checkpoints/step_00000005").exists()


def test_a_checkpoint_that_failed_by_a_bug_is_not_taken_for_written(tmp_path: Path):
    run, said = storage_of(tmp_path), []
    write, odd = writer(run, said=said), CheckpointPart()
    odd.tensors[TensorKind.PARAMETERS]["weight"] = torch.zeros(2, dtype=torch.complex64)
    write.begin(state(5), odd)
    with pytest.raises(StageFailed, match=r"could not be written: torch\.complex64"):
        write.finish()
    assert committed_checkpoints(run) == [] and "step 5 is given up" in said[0]


class Troubled(Storage):
    """A storage that refuses writes until it is told otherwise."""

    open_again = threading.Event()

    def at(self, path: str) -> Storage:
        return Troubled(f"{self.url}/{path}")

    def write_bytes(self, path: str, data: bytes) -> None:
        if not self.open_again.is_set():
            raise StorageFailed("SlowDown")
        Storage(self.url).write_bytes(path, data)


def test_a_storage_in_trouble_delays_a_checkpoint_and_stops_nobody(tmp_path: Path):
    said: list[str] = []
    Troubled.open_again.clear()
    write = writer(Troubled(str(tmp_path)), said=said)
    began = time.monotonic()
    write.begin(state(7), part(7))
    assert time.monotonic() - began < 0.5 and write.is_busy
    deadline = time.monotonic() + 10
    while not said:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    Troubled.open_again.set()
    write.finish()
    assert committed_checkpoints(storage_of(tmp_path)) == ["checkpoints/step_00000007"]
    assert "delayed: SlowDown" in said[0] and "written after all" in said[1]


def test_without_its_marker_a_checkpoint_does_not_exist(run: Storage):
    run.delete("checkpoints/step_00000030/checkpoint.json")
    assert committed_checkpoints(run)[-1] == newest_checkpoint(run) == "checkpoints/step_00000020"
    with pytest.raises(CorruptData, match="no whole checkpoint"):
        read_state(run.at("checkpoints/step_00000030"))
    sweep_uncommitted(run)
    assert not run.local_path("checkpoints/step_00000030").exists()
    assert len(committed_checkpoints(run)) == 2


def test_a_cut_file_and_a_flipped_bit_are_passed_over_and_named(run: Storage):
    newest = file_of(run, 30, TensorKind.MOMENTS)
    newest.write_bytes(newest.read_bytes()[:-5])
    older = file_of(run, 20, TensorKind.PARAMETERS)
    older.write_bytes(older.read_bytes()[:-1] + b"\x01")
    said: list[str] = []
    assert agreed_checkpoint(run, said.append) == "checkpoints/step_00000010"
    assert "step_00000030" in said[0] and "bytes" in said[0]
    assert "step_00000020" in said[1] and "SHA-256" in said[1]


@pytest.mark.parametrize("marker", [b"", b"[]", b'{"files": {', b'{"files": [], "state": {}}', b"null", b"\xff", b"7"])
def test_a_damaged_marker_is_passed_over_in_words(run: Storage, marker: bytes):
    newest = run.at(newest_checkpoint(run) or "")
    whole = newest.read_bytes("checkpoint.json")
    half = json.dumps({**json.loads(whole), "state": {"step": 30}}).encode()
    for damaged in (marker, half):
        newest.write_bytes("checkpoint.json", damaged)
        with pytest.raises(CorruptData, match=r"is no whole checkpoint: checkpoint\.json cannot be read"):
            read_state(newest)
        assert problem_of(newest) == "checkpoint.json cannot be read"
    newest.write_bytes("checkpoint.json", whole)
    assert problem_of(newest) is None


def test_where_none_is_whole_nothing_begins_anew(run: Storage):
    for step in (10, 20, 30):
        file_of(run, step, TensorKind.PARAMETERS).write_bytes(b"nonsense")
    with pytest.raises(CorruptData, match="has 3 checkpoints and none is whole: the training would begin at step 0"):
        agreed_checkpoint(run, print)


def test_a_damaged_checkpoint_is_replaced_when_its_step_is_done_again(run: Storage):
    damaged = file_of(run, 30, TensorKind.PARAMETERS)
    damaged.write_bytes(b"nonsense")
    again = CheckpointWriter(run, PartName("0002def", 0, 1), WriterSettings(KeepRule(9), 20.0), say=print)
    again.begin(state(30), part(31))
    again.finish()
    checkpoint = run.at("checkpoints/step_00000030")
    assert hash_problem(checkpoint) is None and not damaged.exists()
    assert load_tensors(checkpoint, TensorKind.PARAMETERS)["0.weight"][0, 0] == 31


def test_a_run_without_checkpoints_has_none(tmp_path: Path):
    empty = storage_of(tmp_path)
    assert newest_checkpoint(empty) is None and agreed_checkpoint(empty, print) is None
    sweep_uncommitted(empty)


def test_a_copy_among_the_checkpoints_is_none_of_them_and_stays(run: Storage):
    copies = ["zz_good_3", "best", "step_00000010.bak", "step_000000040", "old/step_00000050"]
    for name in copies:
        shutil.copytree(run.local_path("checkpoints/step_00000010"), run.local_path(f"checkpoints/{name}"))
    run.local_path("checkpoints/notes.txt").write_text("the one of step 10 looked well")
    save(run, 100_000_000)
    assert [step_of(path) for path in committed_checkpoints(run)] == [10, 20, 30, 100_000_000]
    newest = checkpoint_path(100_000_000)
    assert newest_checkpoint(run) == newest_whole_checkpoint(run) == newest
    prune_checkpoints(run, KeepRule(1), newest)
    run.delete(f"{newest}/checkpoint.json")
    sweep_uncommitted(run)
    assert committed_checkpoints(run) == []
    assert all(run.exists(f"checkpoints/{name}/checkpoint.json") for name in copies)
    left = {path.name for path in run.local_path("checkpoints").iterdir()}
    assert left == {"notes.txt", "old", *copies[:-1]}


def test_only_the_newest_are_kept_and_never_none(run: Storage):
    newest = "checkpoints/step_00000030"
    prune_checkpoints(run, KeepRule(2), newest)
    assert committed_checkpoints(run) == ["checkpoints/step_00000020", "checkpoints/step_00000030"]
    prune_checkpoints(run, KeepRule(1), newest)
    prune_checkpoints(run, KeepRule(1), newest)
    assert committed_checkpoints(run) == [newest]


def test_the_best_the_one_just_written_and_those_of_the_interval_stay(run: Storage):
    save(run, 35)
    prune_checkpoints(run, KeepRule(1, every=20), "checkpoints/step_00000035", best="checkpoints/step_00000010")
    assert [int(path[-8:]) for path in committed_checkpoints(run)] == [10, 20, 35]


@pytest.mark.parametrize("keep", [1, 3])
def test_damaged_checkpoints_never_crowd_out_a_good_one(run: Storage, keep: int):
    for step in (20, 30):
        file = file_of(run, step, TensorKind.PARAMETERS)
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    said: list[str] = []
    assert agreed_checkpoint(run, said.append) == "checkpoints/step_00000010"
    assert len(said) == 2 and all("SHA-256" in words for words in said)
    again = writer(run, keep=keep)
    again.begin(state(11), part(11))
    again.finish()
    assert newest_whole_checkpoint(run) == agreed_checkpoint(run, said.append) == "checkpoints/step_00000011"


def test_a_start_that_was_superseded_commits_nothing(run: Storage):
    said: list[str] = []
    old = CheckpointWriter(
        run, PartName("0001abc", 0, 1), WriterSettings(KeepRule(9), 20.0), say=said.append, is_superseded=lambda: True
    )
    old.begin(state(40), part(40))
    with pytest.raises(StageFailed, match="started again since"):
        old.finish()
    assert newest_checkpoint(run) == "checkpoints/step_00000030"


def test_the_best_checkpoint_survives_the_writers_pruning(run: Storage):
    write_best(run, Best(10, "recall", 0.5))
    pruning = writer(run, keep=1)
    pruning.begin(state(50), part(50))
    pruning.finish()
    assert [int(path[-8:]) for path in committed_checkpoints(run)] == [10, 50]


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(0, 10**9)), st.integers(1, 9))
def test_each_tensor_has_one_writer_and_the_load_is_even(sizes: dict[str, int], ranks: int):
    owners = owners_of(sizes, ranks)
    loads = [sum(size for name, size in sizes.items() if owners[name] == rank) for rank in range(ranks)]
    assert owners.keys() == sizes.keys() and set(owners.values()) <= set(range(ranks))
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)


def test_the_librarys_own_reader_finds_every_tensor(tmp_path: Path):
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
        "a": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
    }
    with (tmp_path / "x.safetensors").open("wb") as stream:
        write_tensors(tensors, stream)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in tensors)


@given(st.integers(1, 50), st.one_of(st.none(), st.integers(1, 30)), st.one_of(st.none(), st.integers(1, 500)))
def test_checkpoints_fall_on_the_same_steps_wherever_the_training_was_resumed(
    batch: int, steps: int | None, samples: int | None
):
    def saved(first: int) -> list[int]:
        clock, found = CadenceClock(Cadence(steps, samples), batch, first), []
        for step in range(first + 1, 101):
            if clock.is_step(step):
                found.append(step)
                clock.saved_at(step)
        return found

    whole = saved(0)
    for first in (0, 17, 60):
        assert saved(first) == [step for step in whole if step > first]
    if steps is not None and samples is None:
        assert whole == list(range(steps, 101, steps))


def test_a_checkpoint_that_had_to_wait_stays_due_and_minutes_count():
    now = [0.0]
    clock = CadenceClock(Cadence(10, None, 2.0), 4, 0, lambda: now[0])
    assert not clock.is_step(9) and clock.is_step(10) and clock.is_step(11) and not clock.is_time()
    clock.saved_at(11)
    assert not clock.is_step(12) and clock.is_step(20)
    now[0] = 121.0
    assert clock.is_time()
    clock.saved_at(12)
    assert not clock.is_time()


def test_the_marker_holds_the_state_and_the_files(run: Storage):
    marker = json.loads(run.read_bytes("checkpoints/step_00000030/checkpoint.json"))
    assert marker["state"]["step"] == 30 and marker["state"]["losses"] == [1.5, 1.25]
    assert {facts["kind"] for facts in marker["files"].values()} == {"parameters", "moments"}
