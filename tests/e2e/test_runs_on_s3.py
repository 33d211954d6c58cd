"""Whole runs in a bucket: through a storage in trouble, after kill -9, after `diptych stop`; the result is the same."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import diptych, family, kill_all, start_diptych
from counting_web import CountingWeb
from fault_proxy import Fault, FaultProxy
from object_store import ObjectStore
from pipelines import STEPS, losses_of, scores_of, weights_of, write_pipeline

from infra.object_lease import EXPIRES_AFTER_S
from infra.storage import Storage, storage_of
from orchestrator.records import read_standing
from orchestrator.run_state import RunState
from training.checkpoint import newest_checkpoint, step_of

pytestmark = pytest.mark.slow

WAIT_S = 240


@pytest.fixture(scope="module")
def web() -> Iterator[CountingWeb]:
    with CountingWeb() as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, web: CountingWeb) -> Storage:
    """The run's folder of the same pipeline on local disk, which nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done = diptych("run", write_pipeline(folder, web, str(folder), "quiet"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return storage_of(folder / "runs" / "quiet")


def assert_same_result(run: Storage, undisturbed: Storage) -> None:
    assert losses_of(run) == losses_of(undisturbed)
    assert scores_of(run) == scores_of(undisturbed)
    ours, theirs = weights_of(run), weights_of(undisturbed)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def attempts_of(run: Storage) -> list[dict[str, int]]:
    return [json.loads(run.read_bytes(entry.path)) for entry in run.list_files("attempts")]


def wait_until(is_there: Callable[[], bool], within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_checkpoint(run: Storage) -> None:
    wait_until(lambda: newest_checkpoint(run) is not None)


def test_a_storage_in_trouble_changes_nothing(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, undisturbed: Storage
):
    """5 % of the requests are refused, some are reset or lose their answers, all are slow, and once nothing answers."""
    with FaultProxy(store.endpoint) as proxy:
        proxy.delay_s = 0.01
        proxy.trouble({Fault.SLOW_DOWN: 0.05, Fault.RESET: 0.01, Fault.LOSE_REPLY: 0.01, Fault.CUT_BODY: 0.01})
        outage = threading.Timer(25, lambda: proxy.refuse(10))
        outage.start()
        config = write_pipeline(tmp_path, web, store.url("trouble"), "birds")
        done = diptych("run", config, cwd=tmp_path, env=store.environment(endpoint=proxy.endpoint), timeout_s=WAIT_S)
        outage.join()
        assert done.returncode == 0, done.stderr
        assert {fault for fault, _, _ in proxy.met} >= {Fault.SLOW_DOWN, Fault.RESET}
    run = storage_of(store.url("trouble/runs/birds"))
    assert_same_result(run, undisturbed)
    assert read_standing(run).state is RunState.DONE
    assert diptych("verify", run.url, cwd=tmp_path).returncode == 0


def test_a_driver_killed_with_9_is_lost_and_resume_goes_on_from_the_bucket_alone(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, undisturbed: Storage
):
    run = storage_of(store.url("killed/runs/birds"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    driver = start_diptych("run", write_pipeline(tmp_path, web, store.url("killed"), "birds"), cwd=tmp_path)
    wait_for_checkpoint(run)
    assert read_standing(run).state is RunState.RUNNING
    kill_all(family(driver.pid))
    driver.wait()
    killed_at = time.monotonic()
    (tmp_path / "birds.yaml").unlink()
    wait_until(lambda: read_standing(run).state is RunState.LOST, EXPIRES_AFTER_S + 10)
    assert time.monotonic() - killed_at > 5  # its last sign of life was not long ago
    told = diptych("status", run.url, cwd=elsewhere)
    assert told.returncode == 1 and "lost" in told.stdout

    done = diptych("resume", run.url, cwd=elsewhere, timeout_s=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert_same_result(run, undisturbed)
    status = json.loads(diptych("status", run.url, "--json", cwd=elsewhere).stdout)
    assert status["state"] == "done" and status["drives"] == 2 and len(status["restarts"]) == 1
    assert list(elsewhere.iterdir()) == []
    followed = diptych("logs", run.url, "-f", cwd=elsewhere)
    assert followed.returncode == 0 and followed.stdout.count("✓ build") == 2
    listed = json.loads(diptych("runs", store.url("killed/runs"), "--json", cwd=elsewhere).stdout)["runs"]
    assert [(line["name"], line["state"]) for line in listed] == [("birds", "done")]


def test_stop_saves_first_and_resume_does_nothing_again(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, undisturbed: Storage
):
    run = storage_of(store.url("stopped/runs/birds"))
    config = write_pipeline(tmp_path, web, store.url("stopped"), "birds", checkpoint_every=1000)
    driver = start_diptych("run", config, cwd=tmp_path)
    wait_until(lambda: "train  1/" in diptych("logs", run.url, cwd=tmp_path).stdout)
    stopped = diptych("stop", run.url, "--wait", "--json", cwd=tmp_path)
    assert stopped.returncode == 0 and json.loads(stopped.stdout)["state"] == "stopped", stopped.stderr
    assert driver.wait(60) == 143
    saved = newest_checkpoint(run)
    assert saved is not None and 1 <= step_of(saved) < STEPS
    assert diptych("status", run.url, cwd=tmp_path).returncode == 130
    done = diptych("resume", run.url, cwd=tmp_path, timeout_s=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert_same_result(run, undisturbed)
    assert [attempt["first_step"] for attempt in attempts_of(run)] == [0, step_of(saved)]
