"""A run that was submitted to a cluster of several nodes comes through the death of everything but its storage."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from commands import diptych, family, kill_all, name_of, start_diptych, workers_in
from counting_web import CountingWeb
from object_store import ObjectStore
from pipelines import ROWS_PER_SHARD, assert_same_result, dataset_of, losses_of, write_pipeline
from ray_head import RayHead, RayNode

from infra.storage import Storage, storage_of
from orchestrator.records import read_events, read_standing
from orchestrator.run import REPORT_FILE
from orchestrator.run_state import RunState
from orchestrator.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.long]

WAIT_S = 600  # some three minutes in all on a quiet machine
HELD_ROWS = range(ROWS_PER_SHARD, 2 * ROWS_PER_SHARD)  # those of the second of three shards


@dataclass
class Gate:
    """Holds the pictures of one shard back, and notes who asks for them."""

    clients: list[tuple[str, int]] = field(default_factory=list)
    is_open: threading.Event = field(default_factory=threading.Event)

    def __call__(self, number: int, client: tuple[str, int]) -> None:
        if number in HELD_ROWS:
            self.clients.append(client)
            self.is_open.wait(WAIT_S)


@pytest.fixture
def gate(web: CountingWeb) -> Iterator[Gate]:
    gate, before = Gate(), web.before_answer
    web.before_answer = gate
    yield gate
    gate.is_open.set()
    web.before_answer = before


@dataclass
class Nodes:
    """The head, which drives jobs and builds and trains nothing, and the nodes beside it."""

    head: RayHead
    stack: ExitStack
    nodes: list[RayNode] = field(default_factory=list)

    def add(self) -> None:
        """One more, with one core."""
        self.nodes.append(self.stack.enter_context(RayNode(self.head)))

    def node_of(self, process: psutil.Process) -> RayNode:
        """The node that the process works for."""
        return next(node for node in self.nodes if process in node.processes())

    def drivers(self) -> list[psutil.Process]:
        """Those of jobs."""
        return [process for process in self.head.processes() if "orchestrator run" in name_of(process)]

    def workers(self) -> list[psutil.Process]:
        """Those that train."""
        return workers_in([process for node in self.nodes for process in node.processes()])


@pytest.fixture
def nodes(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    with RayHead(cpus=0) as head, ExitStack() as stack:
        for name, value in head.environment.items():
            monkeypatch.setenv(name, value)
        nodes = Nodes(head, stack)
        nodes.add()
        nodes.add()
        yield nodes


def wait_until(is_there: Callable[[], object], run: Storage) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_there():
        is_failed = read_standing(run).state is RunState.FAILED if run.exists("run.json") else False
        assert time.monotonic() < deadline and not is_failed, diptych("logs", run.url, cwd=Path("/")).stdout
        time.sleep(0.2)


def process_at(client: tuple[str, int]) -> psutil.Process:
    """The process whose end of a connection to the web that is."""
    return next(
        psutil.Process(found.pid)
        for found in psutil.net_connections("tcp4")
        if found.pid is not None and found.laddr and tuple(found.laddr) == client
    )


def restarts(run: Storage) -> str:
    return "\n".join(restart.cause for restart in read_status(run).restarts)


def submit_twice(config: str, nodes: Nodes, run: Storage, folder: Path) -> None:
    """The first client is killed as soon as the run is there; the second one finds that out."""
    client = start_diptych("submit", config, "--address", nodes.head.dashboard, cwd=folder)
    wait_until(lambda: run.exists("run.json"), run)
    kill_all(family(client.pid))
    client.wait()
    done = diptych("submit", config, "--address", nodes.head.dashboard, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_a_client_a_node_in_the_build_the_driver_and_a_node_in_the_training_are_killed_and_nothing_changes(
    tmp_path: Path, web: CountingWeb, gate: Gate, store: ObjectStore, nodes: Nodes, undisturbed: Storage
):
    run = storage_of(store.url("nodes/runs/birds"))
    config = write_pipeline(tmp_path, web, store.url("nodes"), "birds")
    submit_twice(config, nodes, run, tmp_path)

    wait_until(lambda: gate.clients, run)
    nodes.node_of(process_at(gate.clients[-1])).kill()
    nodes.add()
    wait_until(lambda: re.search(r"shards? .*00001.* begun again: node \w+ \(.*\) died", restarts(run)), run)

    gate.is_open.set()
    wait_until(lambda: "train" in [event.text for event in read_events(run)], run)
    assert nodes.drivers()
    kill_all(nodes.drivers())
    resumed = start_diptych("resume", run.url, "--address", nodes.head.address, cwd=tmp_path)
    try:
        wait_until(lambda: losses_of(run) or resumed.poll() is not None, run)
        nodes.node_of(nodes.workers()[-1]).kill()
        nodes.add()
        assert resumed.wait(WAIT_S) == 0, (tmp_path / "output.txt").read_text()
    finally:
        kill_all(family(resumed.pid) if resumed.poll() is None else [])
        resumed.wait()

    assert dataset_of(run) == dataset_of(undisturbed)
    assert_same_result(run, undisturbed)
    told = json.loads(diptych("status", run.url, "--json", cwd=tmp_path).stdout)
    causes = [restart["cause"] for restart in told["restarts"]]
    assert told["state"] == "done" and told["drives"] == 2, causes
    assert all("begun again" in cause for cause in causes[:-2]) and "the driver before died" in causes[-2], causes
    assert re.match(r"rank \d on node \w+ .*its node died .*started again, 1 of 3 times", causes[-1]), causes
    cost = {stage["name"]: stage["node_hours"] for stage in told["stages"]}
    assert cost["build"] > 0 and cost["train"] > 0, cost
    assert b"its node died" in run.read_bytes(REPORT_FILE)
