"""A build on a cluster of several nodes, one of which dies in the middle, gives the bytes of an undisturbed one."""

import hashlib
import json
import subprocess
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
from commands import DIPTYCH
from hostile_web import HostileWeb, Visit
from pictures import picture
from several_nodes import SeveralNodes, several_nodes

from datapipe.build import build, check_build
from datapipe.config import BuildConfig
from infra.cluster import Cluster
from infra.progress import Progress

pytestmark = pytest.mark.slow

ROWS, ROWS_PER_SHARD = 120, 10
SHARDS = 12
FINISHED_BEFORE_THE_KILL = 2
WAIT_S = 300


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[SeveralNodes]:
    with several_nodes(tmp_path / "host.log", 2, 2) as nodes:
        yield nodes


@dataclass
class Watch:
    """Notes which node asks for each picture; holds the victim's requests once some shards are done, until it dies."""

    nodes: SeveralNodes
    output: Path
    victim: int | None = None
    asked: Counter[int | None] = field(default_factory=Counter)
    is_in_the_middle: threading.Event = field(default_factory=threading.Event)
    has_other_asked: threading.Event = field(default_factory=threading.Event)
    is_killed: threading.Event = field(default_factory=threading.Event)

    def answer(self, visit: Visit) -> None:
        node = self.nodes.node_of(client_of(visit))
        self.asked[node] += 1
        if node is not None and node != self.victim:
            self.has_other_asked.set()
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
    web_of_pictures: HostileWeb, tmp_path: Path, ray_cluster: Cluster, nodes: SeveralNodes
):
    undisturbed = BuildConfig.model_validate(settings(tmp_path, "undisturbed"))
    check_build(undisturbed)
    with Progress(StringIO()) as progress:
        build(undisturbed, progress)
    expected = digests(tmp_path / "undisturbed")
    assert len(expected) == 2 * SHARDS

    watch = Watch(nodes, tmp_path / "disturbed", victim=1)
    for number in range(ROWS):
        web_of_pictures.at(f"/{number}", watch.answer)
    command = start_build(tmp_path, "disturbed", nodes)
    try:
        assert watch.is_in_the_middle.wait(WAIT_S), (tmp_path / "build.log").read_text()
        assert watch.has_other_asked.wait(WAIT_S)
        before = watch.asked.copy()
        nodes.kill(1)
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
