"""Trainings that are killed: by worker, by Ctrl-C, whole; each ends with the losses of an undisturbed one."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from commands import DIPTYCH, family, kill_all, start_diptych
from small_datasets import make_dataset

pytestmark = pytest.mark.slow

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
  threads_per_worker: 1
  checkpoint_every: 3
"""
WAIT_S = 240


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
    return [process for process in family(driver.pid) if "RayTrainWorker" in " ".join(process.cmdline())]


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
    assert "resumed at step" in (folder / "output.txt").read_text()


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
