"""Whole runs in a bucket: through a storage in trouble, after kill -9, after `diptych stop`; the result is the same."""

import json
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from commands import diptych, family, kill_all, start_diptych, workers_in
from counting_web import CountingWeb
from fault_proxy import Fault, FaultProxy
from object_store import ObjectStore
from pipelines import STEPS, assert_same_result, losses_of, write_pipeline
from store_client import UseStore
from store_keys import file_environment, give_key, key_environment, take_key, write_credentials

from infra.object_lease import EXPIRES_AFTER_S
from infra.storage import Storage, storage_of
from orchestrator.records import drive_numbers, read_standing
from orchestrator.run_state import RunState
from training.board import STOP_NOTE
from training.checkpoint import newest_checkpoint, step_of

pytestmark = pytest.mark.slow

WAIT_S = 600  # about a minute on a quiet machine
OUTAGE_S = 60


def attempts_of(run: Storage) -> list[dict[str, int]]:
    return [json.loads(run.read_bytes(entry.path)) for entry in run.list_files("attempts")]


def wait_until(is_there: Callable[[], bool], within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_checkpoint(run: Storage) -> None:
    wait_until(lambda: newest_checkpoint(run) is not None)


@pytest.mark.long
def test_a_storage_in_trouble_changes_nothing(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, undisturbed: Storage
):
    """5 % of the requests are throttled, some are reset or lose their answers, all are slow, and for a minute of the
    training, longer than the lease lasts, none is answered."""
    run = storage_of(store.url("trouble/runs/birds"))
    with FaultProxy(store.endpoint) as proxy:
        proxy.delay_s = 0.01
        proxy.trouble({Fault.SLOW_DOWN: 0.05, Fault.RESET: 0.01, Fault.LOSE_REPLY: 0.01, Fault.CUT_BODY: 0.01})
        outages: list[float] = []

        def refuse_for_a_minute() -> None:
            wait_for_checkpoint(run)
            proxy.refuse(OUTAGE_S)
            outages.append(time.monotonic())

        outage = threading.Thread(target=refuse_for_a_minute)
        outage.start()
        config = write_pipeline(tmp_path, web, store.url("trouble"), "birds")
        done = diptych("run", config, cwd=tmp_path, env=store.environment(endpoint=proxy.endpoint), timeout_s=WAIT_S)
        outage.join()
        assert done.returncode == 0, done.stderr
        assert {fault for fault, _, _ in proxy.met} >= {Fault.SLOW_DOWN, Fault.RESET}
        assert time.monotonic() - outages[0] > OUTAGE_S
    assert_same_result(run, undisturbed)
    assert read_standing(run).state is RunState.DONE
    assert drive_numbers(run) == [1] and [attempt["first_step"] for attempt in attempts_of(run)] == [0]
    assert diptych("verify", run.url, cwd=tmp_path).returncode == 0


@pytest.mark.long
def test_credentials_that_end_in_the_middle_are_renewed_or_asked_for(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, undisturbed: Storage
):
    """First a key of the environment ends, and the run with it; then one that another program renews in its file."""
    run = storage_of(store.url("credentials/runs/birds"))
    keys, file = [give_key(store) for _ in range(3)], tmp_path / "credentials"
    config = write_pipeline(tmp_path, web, store.url("credentials"), "birds")
    driver = start_diptych("run", config, cwd=tmp_path, env=key_environment(store.endpoint, keys[0]))
    wait_for_checkpoint(run)
    take_key(store, keys[0])
    assert driver.wait(WAIT_S) == 1
    told = (tmp_path / "output.txt").read_text()
    assert "the storage refuses the credentials" in told and f"`diptych resume {run.url}` goes on" in told
    saved = newest_checkpoint(run)
    assert saved is not None

    write_credentials(file, keys[1])
    driver = start_diptych("resume", run.url, cwd=tmp_path, env=file_environment(store.endpoint, file))
    wait_until(lambda: newest_checkpoint(run) != saved)
    write_credentials(file, keys[2])
    take_key(store, keys[1])
    assert driver.wait(WAIT_S) == 0, (tmp_path / "output.txt").read_text()
    assert_same_result(run, undisturbed)
    assert drive_numbers(run) == [1, 2]
    assert [attempt["first_step"] for attempt in attempts_of(run)] == [0, step_of(saved)]
    assert diptych("verify", run.url, cwd=tmp_path).returncode == 0
    written = [run.read_bytes(entry.path) for entry in run.list_files(recursive=True)]
    written.append((tmp_path / "output.txt").read_bytes())
    assert not [key for key in keys if any(key.secret_key.encode() in data for data in written)]


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
    secret = store.environment()["AWS_SECRET_ACCESS_KEY"].encode()
    assert not [entry.path for entry in run.list_files(recursive=True) if secret in run.read_bytes(entry.path)]


@pytest.mark.long
def test_stop_saves_first_and_resume_does_nothing_again(
    tmp_path: Path, web: CountingWeb, store: ObjectStore, undisturbed: Storage
):
    run = storage_of(store.url("stopped/runs/birds"))
    config = write_pipeline(tmp_path, web, store.url("stopped"), "birds", checkpoint_every=1000)
    driver = start_diptych("run", config, cwd=tmp_path)
    wait_until(lambda: bool(losses_of(run)))
    # A step waits for all ranks: none is done while one is held, and the others hear of the stop.
    held = workers_in(family(driver.pid))[0]
    held.suspend()
    asked = diptych("stop", run.url, "--json", cwd=tmp_path)
    assert asked.returncode == 0 and json.loads(asked.stdout)["state"] == "stopping", asked.stderr
    wait_until(lambda: STOP_NOTE in diptych("logs", run.url, cwd=tmp_path).stdout, 60)
    held.resume()
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


def test_random_parts_killed_at_random_moments_change_nothing(
    tmp_path: Path,
    web: CountingWeb,
    undisturbed: Storage,
    request: pytest.FixtureRequest,
    use_store: UseStore,
):
    """A worker, the driver, everything, or the storage, again and again; then it is resumed to its end."""
    option = request.config.getoption
    seed = random.randrange(1 << 32) if option("--kill-seed") is None else option("--kill-seed")
    with ObjectStore() as store:
        use_store(store.environment())
        for run_seed in range(seed, seed + option("--kill-runs")):
            folder = tmp_path / str(run_seed)
            folder.mkdir()
            storage = store.url(str(run_seed))
            config = write_pipeline(folder, web, storage, "birds", max_restarts=1000)
            run = storage_of(f"{storage}/runs/birds")
            kinds = run_with_kills(folder / config, run, store, random.Random(run_seed), option("--kill-rounds"))
            print(f"seed {run_seed}: {kinds}", flush=True)
            assert_same_result(run, undisturbed)
            assert diptych("verify", run.url, cwd=folder).returncode == 0
            assert read_standing(run).state is RunState.DONE


def run_with_kills(config: Path, run: Storage, store: ObjectStore, chance: random.Random, kills: int) -> list[str]:
    """Runs the pipeline to its end and kills a part so many times meanwhile; returns what was killed."""
    kinds: list[str] = []
    driver = start_diptych("run", config, cwd=config.parent)
    while len(kinds) < kills:
        moment = time.monotonic() + chance.uniform(5, 40)
        wait_until(lambda: time.monotonic() > moment or driver.poll() is not None)  # noqa: B023 - called at once
        if driver.poll() == 0:
            break  # through before the last kill
        if driver.poll() is None:
            kinds.append(kill_something(chance, driver, store))
        if driver.poll() is not None:
            # Run again as it was begun, or from the storage alone: until the config is there, nothing else goes.
            is_stored = run.exists("run.json") and run.exists("run.yaml")
            driver = start_diptych(*(("resume", run.url) if is_stored else ("run", config)), cwd=config.parent)
    if driver.wait(2 * WAIT_S) != 0:
        done = diptych("resume", run.url, cwd=config.parent, timeout_s=WAIT_S)
        assert done.returncode == 0, done.stderr
    return kinds


def kill_something(chance: random.Random, driver: subprocess.Popen[str], store: ObjectStore) -> str:
    """kill -9 of a part; returns which. The storage comes back after some seconds."""
    processes = family(driver.pid)
    workers = workers_in(processes)
    kind = chance.choice(["driver", "all", "storage", *(["worker"] * 2 if workers else [])])
    match kind:
        case "worker":
            kill_all([chance.choice(workers)])
        case "storage":
            store.kill()
            time.sleep(chance.uniform(0, 15))
            store.restart()
        case _:
            kill_all(processes if kind == "all" else processes[:1])
            driver.wait()
            psutil.wait_procs(workers, timeout=90)  # those of a dead driver end by themselves
    return kind
