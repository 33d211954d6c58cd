"""The local Ray cluster: quiet, and gone after success, failure and kill -9."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from infra.cluster import Cluster, _keep_logs, connect
from infra.errors import MachineError

DRIVER = """
import sys, time
from pathlib import Path
from infra.cluster import Cluster, connect

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


def has_ended(pid: int) -> bool:
    """Whether the process is gone within a moment, or waits for init to ask after it."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or process.wait(5) is None
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE


def test_a_cluster_is_quiet_keeps_its_logs_and_leaves_nothing_behind(tmp_path: Path):
    driver = start(tmp_path, "")
    out, err = driver.communicate(timeout=120)
    assert (err, driver.returncode) == ("", 0)
    worker, cpus = map(int, out.split())
    assert cpus == 2
    assert has_ended(worker)
    assert any("a worker's own words" in log.read_text() for log in (tmp_path / "logs").glob("worker-*.out"))
    assert list(short_folder(tmp_path).iterdir()) == []
    short_folder(tmp_path).rmdir()


LEAVES_A_CHILD = """
    @ray.remote
    def leave_a_child():
        import subprocess
        return subprocess.Popen(["sleep", "600"], start_new_session=True).pid

    print(ray.get(leave_a_child.remote()))
"""


def test_what_does_not_end_with_its_cluster_is_ended(tmp_path: Path):
    """As a worker of Ray does now and then, which hangs in its own end."""
    out, err = start(tmp_path, LEAVES_A_CHILD).communicate(timeout=120)
    assert err == "" and has_ended(int(out.splitlines()[-1]))
    short_folder(tmp_path).rmdir()


@pytest.mark.slow
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


SWEEPER = """
import contextlib, sys
from pathlib import Path
from infra.cluster import connect
from infra.errors import MachineError

with contextlib.suppress(MachineError), connect(Path(sys.argv[1]), address="127.0.0.1:1"):
    pass
"""


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("diptych-2026-01-05", None),
        ("diptych-2-test", None),
        ("diptych-2147483646-notes_24", None),
        ("diptych-2147483646-notes_24", ""),
        ("diptych-2147483646-notes_24", "another-machine 0b5e"),
        ("diptych-2147483646-notes_24", b"\xff"),
    ],
)
def test_a_folder_that_is_no_session_of_this_machine_is_left_alone(
    tmp_path: Path, name: str, owner: str | bytes | None
):
    folder = short_folder(tmp_path) / name
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    if owner is not None:
        (folder / "owner").write_bytes(owner if isinstance(owner, bytes) else owner.encode())
    reader = subprocess.Popen(["tail", "-f", folder / "thesis.txt"], stdout=subprocess.DEVNULL)
    environment = os.environ | {"TMPDIR": str(short_folder(tmp_path))}
    try:
        subprocess.run([sys.executable, "-c", SWEEPER, tmp_path], env=environment, check=True, timeout=120)
        assert reader.poll() is None and (folder / "thesis.txt").read_text() == "years of work"
        assert [path.name for path in short_folder(tmp_path).iterdir()] == [name]
    finally:
        reader.kill()
        reader.wait()
        shutil.rmtree(short_folder(tmp_path))


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


GUEST = """
import sys
from pathlib import Path
from infra.cluster import Cluster, connect

with connect(Path(sys.argv[1]), address=sys.argv[2]) as cluster:
    print(cluster.gpus)
"""


@pytest.mark.parametrize(
    ("value", "code", "words"), [("16", 0, "16\n"), ("many", 1, "DIPTYCH_GPUS_ON_DEMAND is 'many'")]
)
def test_gpus_that_an_autoscaler_may_add_count_as_there(
    value: str, code: int, words: str, ray_cluster: Cluster, tmp_path: Path
):
    address = ray.get_runtime_context().gcs_address
    guest = subprocess.run(
        [sys.executable, "-c", GUEST, tmp_path, address],
        env=os.environ | {"DIPTYCH_GPUS_ON_DEMAND": value},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert guest.returncode == code and words in guest.stdout + guest.stderr


def test_logs_that_cannot_be_kept_cost_nothing_else(tmp_path: Path):
    session = tmp_path / "session_2026" / "logs"
    session.mkdir(parents=True)
    (session / "raylet.out").write_text("a daemon's words")
    (tmp_path / "in-the-way").write_text("a file")
    _keep_logs(tmp_path, tmp_path / "in-the-way" / "logs")
    _keep_logs(tmp_path, tmp_path / "logs")
    assert (tmp_path / "logs" / "raylet.out").read_text() == "a daemon's words"
