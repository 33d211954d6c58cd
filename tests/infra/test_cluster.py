"""The local Ray cluster: quiet, and gone after success, failure and kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from infra.cluster import Cluster, connect
from infra.errors import MachineError

DRIVER = """
import sys, time
from pathlib import Path
from infra.cluster import connect

with connect(Path(sys.argv[1]), cpus=2) as cluster:
    import ray

    @ray.remote
    def work():
        import os
        print("a worker's own words")
        return os.getpid()

    print(ray.get(work.remote()), cluster.cpus, flush=True)
    {ending}
"""


def start(tmp_path: Path, ending: str) -> subprocess.Popen[str]:
    script = DRIVER.replace("{ending}", ending)
    environment = os.environ | {"TMPDIR": str(short_folder(tmp_path))}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "logs")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def short_folder(tmp_path: Path) -> Path:
    folder = Path(f"/tmp/dt{abs(hash(tmp_path)) % 10**8}")
    folder.mkdir(exist_ok=True)
    return folder


def test_a_cluster_is_quiet_keeps_its_logs_and_leaves_nothing_behind(tmp_path: Path):
    driver = start(tmp_path, "")
    out, err = driver.communicate(timeout=120)
    assert (err, driver.returncode) == ("", 0)
    worker, cpus = map(int, out.split())
    assert cpus == 2
    assert not psutil.pid_exists(worker)
    assert any("a worker's own words" in log.read_text() for log in (tmp_path / "logs").glob("worker-*.out"))
    assert list(short_folder(tmp_path).iterdir()) == []
    short_folder(tmp_path).rmdir()


def test_kill_9_of_the_driver_takes_its_cluster_along_and_the_next_start_sweeps(tmp_path: Path):
    driver = start(tmp_path, "time.sleep(600)")
    assert driver.stdout is not None and driver.stdout.readline()
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) >= 3
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert start(tmp_path, "").wait(timeout=120) == 0
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert list(short_folder(tmp_path).iterdir()) == []
    short_folder(tmp_path).rmdir()


def test_an_address_where_nothing_answers_is_an_error_for_the_user(tmp_path: Path):
    with (
        pytest.raises(MachineError, match=r"No Ray cluster answers at 127\.0\.0\.1:1 "),
        connect(tmp_path, address="127.0.0.1:1"),
    ):
        pass


def test_an_address_where_nothing_answers_leaves_the_cluster_that_is_connected(ray_cluster: Cluster, tmp_path: Path):
    with pytest.raises(MachineError), connect(tmp_path, address="127.0.0.1:1"):
        pass
    assert ray.cluster_resources()["CPU"] == ray_cluster.cpus
