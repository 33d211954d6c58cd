"""Traces of the steps that were asked for."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from infra.storage import Storage, storage_of
from training.profile import StepProfiler


def profiled(run: Storage, steps: tuple[int, int] | None, first: int, last: int) -> None:
    with StepProfiler(steps, run, rank=1) as profiler:
        for number in range(first, last + 1):
            with profiler.step(number):
                torch.ones(8, 8) @ torch.ones(8, 8)


def events(run: Storage) -> set[str]:
    """The names of what the one trace shows."""
    (entry,) = run.list_files("profile")
    return {event["name"] for event in json.loads(gzip.decompress(run.read_bytes(entry.path)))["traceEvents"]}


def test_the_steps_asked_for_are_traced_and_no_others(tmp_path: Path):
    run = storage_of(tmp_path)
    profiled(run, (2, 3), 1, 5)
    assert [entry.path for entry in run.list_files("profile")] == ["profile/rank_1_steps_2-3.json.gz"]
    names = events(run)
    assert {"step 2", "step 3", "aten::mm"} <= names and not {"step 1", "step 4"} & names


def test_a_training_that_resumes_among_them_or_ends_before_traces_what_it_does(tmp_path: Path):
    late, early = storage_of(tmp_path / "late"), storage_of(tmp_path / "early")
    profiled(late, (2, 5), 4, 9)
    assert {"step 4", "step 5"} <= events(late)
    profiled(early, (2, 5), 1, 3)
    assert {"step 2", "step 3"} <= events(early) and "step 4" not in events(early)


def test_a_step_that_fails_leaves_its_trace_and_its_error(tmp_path: Path):
    run = storage_of(tmp_path)
    with pytest.raises(ValueError, match="went wrong"), StepProfiler((1, 5), run, rank=1) as profiler:
        with profiler.step(1):
            torch.ones(8, 8) @ torch.ones(8, 8)
        with profiler.step(2):
            raise ValueError("went wrong")
    assert {"step 1", "step 2"} <= events(run)


@pytest.mark.parametrize("steps", [None, (7, 9)])
def test_where_nothing_is_asked_for_nothing_is_written(tmp_path: Path, steps: tuple[int, int] | None):
    profiled(storage_of(tmp_path), steps, 1, 3)
    assert storage_of(tmp_path).list_files("profile") == []
