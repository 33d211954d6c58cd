"""Trainings that fail: what is tried again, when it is given up, and how that is told."""

import json
import re
from pathlib import Path

import pytest
from commands import diptych
from small_datasets import make_dataset

pytestmark = pytest.mark.slow

CONFIG = """\
train:
  data: data
  model: diptych-tiny
  global_batch_size: 24
  steps: 20
  workers: 1
  threads_per_worker: 1
  max_error_restarts: 5
"""


def test_the_same_error_at_the_same_step_is_tried_again_once_and_then_told_with_its_cause(tmp_path: Path):
    make_dataset(tmp_path / "data")
    (tmp_path / "data" / "00001.tar").unlink()
    (tmp_path / "birds.yaml").write_text(CONFIG)
    done = diptych("train", "birds.yaml", cwd=tmp_path)
    assert done.returncode == 1
    error = done.stderr[done.stderr.index("error: ") :]
    first, *others = error.splitlines()
    assert re.match(r"error: The training stopped: rank 0 on node \w+ \(.+\), process \d+, at step 1: ", first)
    assert "00001.tar" in first
    assert "It was not started again: step 1 failed twice with this very error" in error
    assert any("started again, 1 of 5 times" in line for line in done.stderr.splitlines())
    status = json.loads(diptych("status", "runs/birds", "--json", cwd=tmp_path).stdout)
    assert status["state"] == "failed" and status["reason"].startswith(first.removeprefix("error: "))
    assert len(status["restarts"]) == 1 and "00001.tar" in status["restarts"][0]["cause"]
    assert "Logs: " in others[-1]
