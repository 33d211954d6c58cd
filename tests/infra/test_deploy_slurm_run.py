"""The Slurm script trains on two nodes, gives way before its time is up and goes on when it is queued again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from commands import name_of
from own_machine import ISOLATED, require_own_machine
from small_datasets import make_dataset

from infra.deploy.slurm import slurm_job
from orchestrator.cluster_needs import fixed_needs
from orchestrator.config import load_config

pytestmark = pytest.mark.slow

STEPS = 30
WAIT_S = 600
STARTS = 4
TOO_SLOW = "timed out during startup"
JOB_ID = "4242"
# Two machines in one: each with its own processes, network and temporary folder, since `ray symmetric-run` tells the
# head by its address and `ray stop` ends every Ray process that it sees. The script runs on the first, as in Slurm.
MACHINES = f"""
set -euo pipefail
ip link set lo up
ip link add eth0 type veth peer name peer
ip address add 10.99.0.1/24 dev eth0
ip link set eth0 up
unshare --net {" ".join(ISOLATED)} bash "$TEST_FOLDER/second_node.sh" > "$TEST_FOLDER/second_node.txt" 2>&1 &
second=$!
until [ "$(readlink /proc/$second/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.1; done
ip link set peer netns "$second"
{" ".join(ISOLATED)} bash "$TEST_FOLDER/first_node.sh"
"""
FIRST_NODE = """
set -euo pipefail
mount -t tmpfs tmpfs /mnt
exec bash "$TEST_FOLDER/job.sbatch"
"""
SECOND_NODE = """
set -euo pipefail
mount -t tmpfs tmpfs /mnt
until ip link show peer; do sleep 0.1; done 2> /dev/null
ip link set lo up
ip link set peer name eth0
ip address add 10.99.0.2/24 dev eth0
ip link set eth0 up
until [ -e "$TEST_FOLDER/task" ]; do sleep 0.1; done
bash "$TEST_FOLDER/task"
touch "$TEST_FOLDER/task-ended"
"""
# What `srun` does with the script's command: a task on each node; it ends when both have ended.
SRUN = """#!/usr/bin/env bash
set -euo pipefail
while [[ $1 == --* ]]; do shift; done
{ export -p; printf '%q ' "$@"; } > "$TEST_FOLDER/task-begun"
mv "$TEST_FOLDER/task-begun" "$TEST_FOLDER/task"
result=0
"$@" || result=$?
until [ -e "$TEST_FOLDER/task-ended" ]; do sleep 0.1; done
exit "$result"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$TEST_FOLDER/scontrol.txt"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    require_own_machine()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name, text in {"machines": MACHINES, "first_node": FIRST_NODE, "second_node": SECOND_NODE}.items():
        (tmp_path / f"{name}.sh").write_text(text)
    make_dataset(tmp_path / "data", shards=2, rows=40)
    (tmp_path / "birds.yaml").write_text(f"""\
storage: {tmp_path}/runs
train: {{data: {tmp_path}/data, held_out: 0.2, model: diptych-tiny, global_batch_size: 16, steps: {STEPS}, workers: 2,
        use_gpu: false, checkpoint_every: null}}
evaluate: {{retrieval: {{}}}}
""")
    needs = fixed_needs(load_config(tmp_path / "birds.yaml"), workers_per_node=1)
    (tmp_path / "job.sbatch").write_text(slurm_job(needs))
    return tmp_path


@pytest.fixture
def jobs() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that were started; what still runs at the end is ended."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for job in started:
        end(job)


def train(folder: Path, jobs: list[subprocess.Popen[str]], wanted_steps: int) -> subprocess.Popen[str]:
    """A job that has trained so many steps; begun again where a busy machine took longer than Ray lets a node start."""
    for _ in range(STARTS):
        jobs.append(start(folder))
        deadline = time.monotonic() + WAIT_S
        while jobs[-1].poll() is None and TOO_SLOW not in words(folder) and time.monotonic() < deadline:
            if len(steps(folder)) >= wanted_steps:
                return jobs[-1]
            time.sleep(0.2)
        end(jobs[-1])
        if TOO_SLOW not in words(folder):
            break
    pytest.fail(words(folder))


def words(folder: Path) -> str:
    """What the nodes' tasks have said."""
    outputs = [folder / name for name in ("job.txt", "second_node.txt")]
    return "\n".join(output.read_text() for output in outputs if output.exists())


def start(folder: Path) -> subprocess.Popen[str]:
    for left in ("task", "task-ended", "second_node.txt"):
        (folder / left).unlink(missing_ok=True)
    environment = os.environ | {
        "PATH": f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TEST_FOLDER": str(folder),
        "TMPDIR": "/mnt",
        "RAY_TMPDIR": "/mnt",
        "GLOO_SOCKET_IFNAME": "eth0",
        "SLURM_JOB_ID": JOB_ID,
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    with (folder / "job.txt").open("w") as output:
        return subprocess.Popen(
            [*ISOLATED, "--net", "bash", folder / "machines.sh"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )


def end(job: subprocess.Popen[str]) -> None:
    """With its first process all of a process namespace ends."""
    if job.poll() is None:
        job.kill()
        job.wait(timeout=30)


def script_of(job: subprocess.Popen[str]) -> psutil.Process:
    """The process that runs the batch script, which Slurm sends the job's signals to."""
    descendants = psutil.Process(job.pid).children(recursive=True)
    return next(process for process in descendants if "job.sbatch" in "".join(name_of(process).split()[1:2]))


def steps(folder: Path) -> list[int]:
    metrics = folder / "runs" / "birds" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def test_a_job_of_two_nodes_gives_way_and_goes_on(folder: Path, jobs: list[subprocess.Popen[str]]):
    job = train(folder, jobs, 3)
    script_of(job).send_signal(signal.SIGUSR1)
    assert job.wait(timeout=WAIT_S) == 0, words(folder)
    assert (folder / "scontrol.txt").read_text() == f"requeue {JOB_ID}\n"
    reached = steps(folder)[-1]
    assert 3 <= reached < STEPS
    assert [path.name for path in (folder / "runs" / "birds" / "checkpoints").iterdir()] == [f"step_{reached:08d}"]
    assert "On worker node" in (folder / "second_node.txt").read_text()
    assert "On head node" in (folder / "job.txt").read_text()

    again = train(folder, jobs, reached + 1)
    assert again.wait(timeout=WAIT_S) == 0, words(folder)
    assert steps(folder) == list(range(1, STEPS + 1))
    assert (folder / "runs" / "birds" / "evaluation" / "scores.json").is_file()


def test_a_job_whose_ray_does_not_start_has_failed(folder: Path, jobs: list[subprocess.Popen[str]]):
    (folder / "bin" / "ray").write_text("#!/usr/bin/env bash\necho Failed to start Ray\n")
    (folder / "bin" / "ray").chmod(0o755)
    jobs.append(start(folder))
    assert jobs[-1].wait(timeout=WAIT_S) == 1
    assert "Ray did not start on the job's nodes" in (folder / "job.txt").read_text()
