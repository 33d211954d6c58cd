"""Runs as jobs of a real Ray cluster, which shares nothing with the one who submits but the storage."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import DIPTYCH, diptych
from counting_web import CountingWeb
from object_store import ObjectStore
from pipelines import STEPS, losses_of, write_pipeline
from ray_head import RayHead

from infra.storage import Storage, storage_of
from orchestrator.records import read_events, read_standing
from orchestrator.run_state import RunState
from training.checkpoint import newest_checkpoint

pytestmark = pytest.mark.slow

WAIT_S = 600  # about a minute on a quiet machine


@pytest.fixture
def head(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayHead]:
    with RayHead() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def web() -> Iterator[CountingWeb]:
    with CountingWeb() as running:
        yield running


def wait_for(run: Storage, *states: RunState) -> RunState:
    deadline = time.monotonic() + WAIT_S
    while (state := read_standing(run).state) not in states:
        assert time.monotonic() < deadline and not state.is_ended, diptych("logs", run.url, cwd=Path("/")).stdout
        time.sleep(0.5)
    return state


def test_eight_submissions_make_one_run_that_is_followed_to_its_end(
    tmp_path: Path, head: RayHead, store: ObjectStore, web: CountingWeb
):
    config = write_pipeline(tmp_path, web, store.url("submit"), "birds")
    with ThreadPoolExecutor(8) as pool:
        submitted = list(
            pool.map(lambda _: diptych("submit", config, "--address", head.dashboard, "--json", cwd=tmp_path), range(8))
        )
    run = storage_of(store.url("submit/runs/birds"))
    assert not read_standing(run).state.is_ended  # they do not wait for it
    assert [done.returncode for done in submitted] == [0] * 8, submitted[0].stderr
    assert len([done for done in submitted if json.loads(done.stdout)["job"]]) == 1
    followed = diptych("logs", run.url, "-f", cwd=tmp_path, timeout_s=WAIT_S)
    assert followed.returncode == 0, followed.stdout
    for words in ("✓ build", "✓ train", "✓ evaluate", "done: "):
        assert followed.stdout.count(words) == 1
    assert len(losses_of(run)) == STEPS and web.asked and max(web.asked.values()) == 1
    assert read_standing(run).state is RunState.DONE

    other = diptych("submit", config, "train.lr=0.5", "--address", head.dashboard, cwd=tmp_path)
    assert other.returncode == 2 and "train.lr 0.001 → 0.5" in other.stderr
    again = diptych("submit", config, "--address", head.dashboard, "--json", cwd=tmp_path)
    assert json.loads(again.stdout) | {"state": "done", "job": None} == json.loads(again.stdout)


def test_a_submitted_run_stops_and_goes_on_after_its_head_is_killed_and_replaced(
    tmp_path: Path, head: RayHead, store: ObjectStore, web: CountingWeb
):
    run = storage_of(store.url("replaced/runs/birds"))
    config = write_pipeline(tmp_path, web, store.url("replaced"), "birds")
    assert diptych("submit", config, "--address", head.dashboard, cwd=tmp_path).returncode == 0
    deadline = time.monotonic() + WAIT_S
    while newest_checkpoint(run) is None:
        assert time.monotonic() < deadline, diptych("logs", run.url, cwd=tmp_path).stdout
        time.sleep(0.5)
    follower = subprocess.Popen(
        [DIPTYCH, "logs", run.url, "-f"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    head.kill()
    assert wait_for(run, RunState.LOST) is RunState.LOST
    assert follower.wait(60) == 1
    head.start()
    resumed = diptych("resume", run.url, "--address", head.dashboard, "--json", cwd=tmp_path)
    assert json.loads(resumed.stdout)["job"], resumed.stderr
    assert wait_for(run, RunState.DONE) is RunState.DONE, diptych("logs", run.url, cwd=tmp_path).stdout
    assert sorted(losses_of(run)) == list(range(1, STEPS + 1))


def test_nobody_at_the_address_is_said(tmp_path: Path, store: ObjectStore, web: CountingWeb):
    config = write_pipeline(tmp_path, web, store.url("nobody"), "birds")
    done = diptych("submit", config, "--address", "http://127.0.0.1:9", cwd=tmp_path, env=os.environ)
    assert done.returncode == 2 and "no Ray cluster takes jobs" in done.stderr and store.keys("nobody") == []


@pytest.mark.long
def test_two_runs_share_a_cluster_by_what_each_reserves(
    tmp_path: Path, head: RayHead, store: ObjectStore, web: CountingWeb
):
    """Four cores: two workers of one core each of either training fit at once."""
    places = []
    for name in ("birds", "owls"):
        config = write_pipeline(tmp_path, web, store.url("share"), name)
        done = diptych("submit", config, "--address", head.dashboard, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        places.append(storage_of(store.url(f"share/runs/{name}")))
    for run in places:
        assert wait_for(run, RunState.DONE) is RunState.DONE
        assert len(losses_of(run)) == STEPS
    (began, ended), (other_began, other_ended) = map(training_time, places)
    assert began < other_ended and other_began < ended  # neither waited for the other's end


def training_time(run: Storage) -> tuple[float, float]:
    times = [event.at for event in read_events(run) if event.text == "train"]
    assert len(times) == 2
    return times[0], times[1]
