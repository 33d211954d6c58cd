"""A Ray cluster of several nodes on this machine, of which nodes can be killed and to which nodes can be added."""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from commands import family, workers_in

from infra.cluster import QUIET_RAY

WAIT_S = 300

# A process of its own, since this one may be connected to another cluster already. The head takes no tasks: only it
# may not die. Prints its address and each node's raylet; reads {"kill": number} and {"add": cores}.
HOST = """
import json, sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
try:
    nodes = [cluster.add_node(num_cpus=int(cores)) for cores in sys.argv[1:]]
    cluster.wait_for_nodes()
    raylet = lambda node: node.all_processes["raylet"][0].process.pid
    print(json.dumps({"address": cluster.address, "raylets": [raylet(node) for node in nodes]}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            cluster.remove_node(nodes[order["kill"]], allow_graceful=False)
            print(json.dumps({}), flush=True)
        else:
            nodes.append(cluster.add_node(num_cpus=order["add"]))
            cluster.wait_for_nodes()
            print(json.dumps({"raylet": raylet(nodes[-1])}), flush=True)
finally:
    cluster.shutdown()
"""


@dataclass
class SeveralNodes:
    """A head without cores and some worker nodes, on this machine."""

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

    def workers(self) -> list[psutil.Process]:
        """Those that train, on all nodes."""
        return workers_in(family(self.host.pid))

    def kill(self, node: int) -> None:
        """Ends all processes of the node with SIGKILL."""
        self._order({"kill": node})

    def add(self, cores: int) -> None:
        """Starts one more node."""
        self.raylets.append(self._order({"add": cores})["raylet"])

    def _order(self, order: dict[str, int]) -> dict[str, int]:
        assert self.host.stdin is not None and self.host.stdout is not None
        self.host.stdin.write(f"{json.dumps(order)}\n")
        self.host.stdin.flush()
        return json.loads(self.host.stdout.readline())


@contextlib.contextmanager
def several_nodes(log: Path, *cores: int) -> Iterator[SeveralNodes]:
    """A cluster whose worker nodes have so many logical cores each; what its host says goes to `log`."""
    folder = Path(tempfile.mkdtemp(prefix="dt", dir="/tmp"))  # short: Ray's sockets lie below it
    environment = os.environ | QUIET_RAY | {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    # Ray's default is a token too, but one that it would leave in the user's home.
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with log.open("w") as errors:
        host = subprocess.Popen(
            [sys.executable, "-c", HOST, *map(str, cores)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert host.stdout is not None and host.stdin is not None
    started: list[psutil.Process] = []
    try:
        first = host.stdout.readline()
        assert first, log.read_text()
        started = psutil.Process(host.pid).children(recursive=True)
        facts = json.loads(first)
        yield SeveralNodes(facts["address"], facts["raylets"], environment, host)
        started += psutil.Process(host.pid).children(recursive=True)
        host.stdin.close()
        assert host.wait(WAIT_S) == 0
    finally:
        for process in [host, *started]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        host.wait()
        host.stdin.close()
        host.stdout.close()
        psutil.wait_procs(started, timeout=30)
        shutil.rmtree(folder)
