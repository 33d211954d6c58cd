"""A build on a cluster of several nodes, one of which dies in the middle, gives the bytes of an undisturbed one."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb, Visit
from pictures import picture

from datapipe.build import build, check_build
from datapipe.config import BuildConfig
from infra.cluster import QUIET_RAY, Cluster
from infra.progress import Progress

pytestmark = pytest.mark.slow

ROWS, ROWS_PER_SHARD = 120, 10
SHARDS = 12
FINISHED_BEFORE_THE_KILL = 2
WAIT_S = 120
DIPTYCH = Path(sys.executable).parent / "diptych"

# A process of its own, since this one may be connected to another cluster already. The head takes no tasks: only it
# may not die. Prints its address and each node's raylet; kills the worker node whose number it reads.
HOST = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
try:
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    cluster.wait_for_nodes()
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    print(json.dumps({"address": cluster.address, "raylets": raylets}), flush=True)
    for line in sys.stdin:
        cluster.remove_node(nodes[int(line)], allow_graceful=False)
        print("killed", flush=True)
finally:
    cluster.shutdown()
"""


@dataclass
class SeveralNodes:
    """A head and two worker nodes of two logical cores each, on this machine."""

    address: str
    raylets: list[int]
    environment: dict[str, str]
    host: subprocess.Popen[str]

    def node_of(self, pid: int | None) -> int | None:
        """The node that the process works for; None for one that died or whose node did."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for parent in psutil.Process(pid).parents() if pid is not None else []:
                if parent.pid in self.raylets:
                    return self.raylets.index(parent.pid)
        return None

    def kill(self, node: int) -> None:
        """Ends all processes of the node with SIGKILL."""
        assert self.host.stdin is not None and self.host.stdout is not None
        self.host.stdin.write(f"{node}\n")
        self.host.stdin.flush()
        assert self.host.stdout.readline() == "killed\n"


@pytest.fixture
def several_nodes(tmp_path: Path) -> Iterator[SeveralNodes]:
    folder = Path(tempfile.mkdtemp(prefix="dt", dir="/tmp"))  # short: Ray's sockets lie below it
    environment = os.environ | QUIET_RAY | {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    # Ray's default is a token too, but one that it would leave in the user's home.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (tmp_path / "host.log").open("w") as log:
        host = subprocess.Popen(
            [sys.executable, "-c", HOST],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert host.stdout is not None and host.stdin is not None
    family: list[psutil.Process] = []
    try:
        first = host.stdout.readline()
        assert first, (tmp_path / "host.log").read_text()
        family = psutil.Process(host.pid).children(recursive=True)
        facts = json.loads(first)
        yield SeveralNodes(facts["address"], facts["raylets"], environment, host)
        family += psutil.Process(host.pid).children(recursive=True)
        host.stdin.close()
        assert host.wait(WAIT_S) == 0
    finally:
        for process in [host, *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        host.wait()
        host.stdin.close()
        host.stdout.close()
        psutil.wait_procs(family, timeout=30)
        shutil.rmtree(folder)


@dataclass
class Watch:
    """Notes which node asks for each picture; holds the victim's requests once some shards are done, until it dies."""

    nodes: SeveralNodes
    output: Path
    victim: int | None = None
    asked: Counter[int | None] = field(default_factory=Counter)
    is_in_the_middle: threading.Event = field(default_factory=threading.Event)
    is_killed: threading.Event = field(default_factory=threading.Event)

    def answer(self, visit: Visit) -> None:
        node = self.nodes.node_of(client_of(visit))
        self.asked[node] += 1
        finished = len(list(self.output.glob("*_stats.json")))
        if node is not None and node == self.victim and finished >= FINISHED_BEFORE_THE_KILL:
            self.is_in_the_middle.set()
            assert self.is_killed.wait(WAIT_S)
        visit.answer(picture(int(visit.path.strip("/"))))


def client_of(visit: Visit) -> int | None:
    """The process at the other end of the connection; None when it has died."""
    address = visit.connection.getpeername()
    for found in psutil.net_connections("tcp4"):
        if found.pid is not None and found.laddr and tuple(found.laddr) == address:
            return found.pid
    return None


def settings(folder: Path, output: str) -> dict[str, object]:
    return {
        "input": str(folder / "urls.parquet"),
        "output": str(folder / output),
        "number_sample_per_shard": ROWS_PER_SHARD,
        "image_size": 48,
        "connections": 2,
        "timeout": 60.0,
        "allow_private_addresses": ["127.0.0.1/32"],
    }


def start_build(folder: Path, output: str, nodes: SeveralNodes) -> subprocess.Popen[str]:
    (folder / "config.yaml").write_text(json.dumps({"build": settings(folder, output)}))
    with (folder / "build.log").open("w") as log:
        return subprocess.Popen(
            [DIPTYCH, "build", "config.yaml", "--address", nodes.address],
            cwd=folder,
            env=nodes.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )


def digests(folder: Path) -> dict[str, str]:
    files = [*folder.glob("*.tar"), *folder.glob("*.parquet")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.fixture
def web_of_pictures(web: HostileWeb, tmp_path: Path) -> HostileWeb:
    urls = [web.serve(f"/{number}", picture(number)) for number in range(ROWS)]
    captions = [f"picture {number}" for number in range(ROWS)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), tmp_path / "urls.parquet")
    return web


def test_tasks_run_on_all_nodes_and_the_death_of_one_changes_nothing(
    web_of_pictures: HostileWeb, tmp_path: Path, ray_cluster: Cluster, several_nodes: SeveralNodes
):
    undisturbed = BuildConfig.model_validate(settings(tmp_path, "undisturbed"))
    check_build(undisturbed)
    with Progress(StringIO()) as progress:
        build(undisturbed, progress)
    expected = digests(tmp_path / "undisturbed")
    assert len(expected) == 2 * SHARDS

    watch = Watch(several_nodes, tmp_path / "disturbed", victim=1)
    for number in range(ROWS):
        web_of_pictures.at(f"/{number}", watch.answer)
    command = start_build(tmp_path, "disturbed", several_nodes)
    try:
        assert watch.is_in_the_middle.wait(WAIT_S), (tmp_path / "build.log").read_text()
        before = watch.asked.copy()
        several_nodes.kill(1)
        watch.is_killed.set()
        assert command.wait(WAIT_S) == 0, (tmp_path / "build.log").read_text()
    finally:
        watch.is_killed.set()
        command.kill()
        command.wait()

    assert before[0] > 0 and before[1] > 0
    assert watch.asked[0] > before[0]
    assert digests(tmp_path / "disturbed") == expected
    assert (tmp_path / "disturbed" / "dataset.json").read_bytes() == (
        tmp_path / "undisturbed" / "dataset.json"
    ).read_bytes()
    assert not [path for path in (tmp_path / "disturbed").iterdir() if "tmp" in path.name or path.name[0] == "."]
