"""Trainings that are killed: by worker, by Ctrl-C, whole; each ends with the losses of an undisturbed one."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from commands import DIPTYCH, diptych, family, kill_all, name_of, start_diptych, workers_in
from small_datasets import make_dataset

from infra.storage import storage_of
from training.checkpoint import TensorKind, load_tensors, newest_checkpoint, step_of

pytestmark = pytest.mark.slow

SHARE_IN_START_UP = 0.3
FOUND_WITHIN_S = 60  # of Ray's own looks at its workers, on a busy machine
STEPS = 60  # a second and more are left after the step that a kill waits for
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc", "ninja", "c89", "c99")
CONFIG = f"""\
train:
  data: data
  model: diptych-tiny
  global_batch_size: 24
  steps: {STEPS}
  lr: 1.0e-3
  workers: 2
  use_gpu: false
  threads_per_worker: 1
  checkpoint_every: 3
"""
WAIT_S = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    make_dataset(folder / "data")
    (folder / "quiet.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[int, float]:
    """The losses of a training that nobody disturbs, on a machine without a compiler."""
    path = without_compilers(folder / "bin")
    assert not any(shutil.which(compiler, path=path) for compiler in COMPILERS)
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "CUDA_HOME")}
    done = subprocess.run(
        [DIPTYCH, "train", "quiet.yaml"],
        cwd=folder,
        env=environment | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_clean(done.stderr)
    return losses(folder / "runs" / "quiet")


def without_compilers(folder: Path) -> str:
    """A PATH of links to every program but the compilers."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            is_compiler = any(name in program.name for name in ("gcc", "g++", "clang")) or program.name in COMPILERS
            if not is_compiler and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


def assert_clean(text: str) -> None:
    """Only our own lines reach the terminal."""
    assert all(line.startswith(("train", "✓ train")) for line in text.splitlines()), text


def losses(run: Path) -> dict[int, float]:
    """The loss of each step, the last doing of those that were done again."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = {record["step"]: record["loss"] for record in map(json.loads, filter(None, lines))}
    assert sorted(found) == list(range(1, STEPS + 1))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """A driver whose test has failed would go on for ever."""
    before = set(psutil.Process().children())
    yield
    for driver in set(psutil.Process().children()) - before:
        if "diptych" in name_of(driver):
            kill_all(family(driver.pid))


def wait_for_step(run: Path, step: int, driver: subprocess.Popen[str]) -> None:
    def is_there() -> bool:
        metrics = run / "metrics.jsonl"
        assert driver.poll() is None, "the training ended before it could be killed"
        return metrics.exists() and any(
            json.loads(line)["step"] >= step for line in metrics.read_text().splitlines() if line.endswith("}")
        )

    wait_until(is_there)


def wait_until(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training_workers(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    return workers_in(family(driver.pid))


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_the_losses_stay_the_same(folder: Path, undisturbed: dict[int, float]):
    (folder / "worker.yaml").write_text(CONFIG)
    run = folder / "runs" / "worker"
    driver = start_diptych("train", "worker.yaml", cwd=folder)
    wait_for_step(run, 5, driver)
    workers = training_workers(driver)
    assert len(workers) == 2
    workers[-1].kill()
    assert driver.wait(WAIT_S) == 0, (folder / "output.txt").read_text()
    assert losses(run) == undisturbed
    assert len(list((run / "attempts").iterdir())) == 2
    assert "the workers were started again" in (folder / "output.txt").read_text()


@pytest.mark.long
def test_ctrl_c_and_kill_9_of_everything_change_nothing(folder: Path, undisturbed: dict[int, float]):
    (folder / "whole.yaml").write_text(CONFIG)
    run = folder / "runs" / "whole"
    driver = start_diptych("train", "whole.yaml", cwd=folder)
    wait_for_step(run, 4, driver)
    processes = family(driver.pid)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    assert psutil.wait_procs(processes, timeout=20)[1] == []

    driver = start_diptych("train", "whole.yaml", cwd=folder)
    wait_for_step(run, 8, driver)
    kill_all(family(driver.pid))
    driver.wait()
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 9, "lo')  # as a kill in the middle of a write leaves it

    driver = start_diptych("train", "whole.yaml", cwd=folder)
    assert driver.wait(WAIT_S) == 0, (folder / "output.txt").read_text()
    torn = [line for line in (run / "metrics.jsonl").read_text().splitlines() if not line.endswith("}")]
    assert torn == ['{"step": 9, "lo']
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace(torn[0] + "\n", ""))
    assert losses(run) == undisturbed


def assert_every_sample_was_used_once(folder: Path, run: Path) -> None:
    verified = diptych("verify", run, cwd=folder)
    assert verified.returncode == 0, verified.stdout
    assert f"{STEPS} steps" in verified.stdout and "once an epoch" in verified.stdout


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest_checkpoint(storage_of(run))
    assert checkpoint is not None
    return load_tensors(storage_of(run).at(checkpoint), TensorKind.PARAMETERS)


def test_sigterm_saves_before_it_ends(folder: Path, undisturbed: dict[int, float]):
    (folder / "term.yaml").write_text(CONFIG.replace("checkpoint_every: 3", "checkpoint_every: 1000"))
    run = folder / "runs" / "term"
    driver = start_diptych("train", "term.yaml", cwd=folder)
    wait_for_step(run, 5, driver)
    processes = family(driver.pid)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(90) == 143
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    saved = newest_checkpoint(storage_of(run))
    assert saved is not None and 5 <= step_of(saved) < STEPS
    assert "stopped" in diptych("status", run, cwd=folder).stdout
    done = diptych("train", "term.yaml", cwd=folder)
    assert done.returncode == 0 and losses(run) == undisturbed
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))  # nothing had to be done again
    assert_every_sample_was_used_once(folder, run)


@pytest.mark.long
def test_a_worker_that_is_asked_to_go_is_saved_first_and_replaced(folder: Path, undisturbed: dict[int, float]):
    (folder / "preempted.yaml").write_text(CONFIG.replace("checkpoint_every: 3", "checkpoint_every: 1000"))
    run = folder / "runs" / "preempted"
    driver = start_diptych("train", "preempted.yaml", cwd=folder)
    wait_for_step(run, 5, driver)
    training_workers(driver)[1].terminate()
    assert driver.wait(WAIT_S) == 0, (folder / "output.txt").read_text()
    assert losses(run) == undisturbed
    first_steps = [json.loads(path.read_text())["first_step"] for path in sorted((run / "attempts").iterdir())]
    assert len(first_steps) == 2 and first_steps[1] >= 5


@pytest.mark.long
def test_a_worker_that_stands_still_is_found_named_and_replaced(folder: Path, undisturbed: dict[int, float]):
    (folder / "hung.yaml").write_text(CONFIG + "  hang_timeout_s: 10\n")
    run = folder / "runs" / "hung"
    driver = start_diptych("train", "hung.yaml", cwd=folder)
    wait_for_step(run, 8, driver)
    stopped = training_workers(driver)[1]
    stopped.suspend()
    began = time.monotonic()
    wait_until(lambda: not stopped.is_running())
    assert time.monotonic() - began < 10 + FOUND_WITHIN_S
    assert driver.wait(WAIT_S) == 0, (folder / "output.txt").read_text()
    assert losses(run) == undisturbed
    output = (folder / "output.txt").read_text()
    assert "was silent for" in output and "in step" in output


def wait_for_a_moment(run: Path, driver: subprocess.Popen[str], chance: random.Random) -> None:
    """Any moment of the start-up, or of the training after some more steps; or the driver's end."""
    if chance.random() < SHARE_IN_START_UP:
        moment = time.monotonic() + chance.uniform(1, 25)
        wait_until(lambda: time.monotonic() > moment or driver.poll() is not None)
        return
    steps = recorded(run) + chance.randint(1, 12)
    wait_until(lambda: recorded(run) >= steps or driver.poll() is not None)
    time.sleep(chance.uniform(0, 0.3))  # into the midst of a step, or of a checkpoint


def recorded(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def kill_at_random(
    driver: subprocess.Popen[str], run: Path, chance: random.Random, kinds: list[str], rounds: int
) -> bool:
    """Kills workers until it kills the driver, alone or with all; whether the training came through. `kinds` grows."""
    while len(kinds) < rounds:
        wait_for_a_moment(run, driver, chance)
        if driver.poll() is not None:
            break
        workers, processes = training_workers(driver), family(driver.pid)
        kinds.append(chance.choice(["worker", "all", "driver"] if workers else ["all", "driver"]))
        if kinds[-1] != "worker":
            kill_all(processes if kinds[-1] == "all" else [psutil.Process(driver.pid)])
            # The workers of a dead driver end by themselves; the next start does not wait for what else is left.
            psutil.wait_procs(workers, timeout=60)
            return False
        kill_all([chance.choice(workers)])
    assert driver.wait(WAIT_S) == 0, (driver.args, kinds)
    return True


@pytest.mark.long
def test_kills_at_random_moments_leave_the_undisturbed_weights(
    folder: Path, undisturbed: dict[int, float], request: pytest.FixtureRequest
):
    """A worker, everything or the driver, again and again until the training is through."""
    rounds, seed = request.config.getoption("--kill-rounds"), request.config.getoption("--kill-seed")
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"seed {seed}, {rounds} rounds")
    chance = random.Random(seed)
    (folder / "random.yaml").write_text(CONFIG + "  max_restarts: 1000\n")
    run = folder / "runs" / "random"
    kinds: list[str] = []
    while len(kinds) < rounds:
        driver = start_diptych("train", "random.yaml", cwd=folder)
        is_through = kill_at_random(driver, run, chance, kinds, rounds)
        if is_through and len(kinds) < rounds:
            shutil.rmtree(run)  # once more from the start
    print(kinds)
    assert diptych("train", "random.yaml", cwd=folder, timeout_s=WAIT_S).returncode == 0
    assert losses(run) == undisturbed
    assert_every_sample_was_used_once(folder, run)
    ours, theirs = weights(run), weights(folder / "runs" / "quiet")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
