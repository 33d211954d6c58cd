"""Runs a real Ray head with its dashboard, and more nodes beside it, on free ports of 127.0.0.1, for a test."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import Self

import psutil
from commands import family, kill_all
from server_process import free_ports

from infra.cluster import QUIET_RAY

READY_WITHIN_S = 90.0


class RayHead:
    """A head that can be killed and replaced by an empty one on the same ports. A `with` block."""

    def __init__(self, cpus: int = 4) -> None:
        self._cpus = cpus
        self._ports = free_ports(8)
        self.address = f"127.0.0.1:{self._ports[0]}"
        self.dashboard = f"http://127.0.0.1:{self._ports[1]}"
        # What a client needs: the cluster's token, as Ray wants it by default.
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Starts an empty cluster; returns when it takes jobs."""
        self._folder = Path(tempfile.mkdtemp(prefix="rh-", dir="/tmp"))
        port, dashboard, client, agent, agent_grpc, metrics, manager, objects = self._ports
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
            *(f"--port={port}", f"--num-cpus={self._cpus}", f"--temp-dir={self._folder}"),
            *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
            *(f"--node-manager-port={manager}", f"--object-manager-port={objects}", "--disable-usage-stats"),
            *("--object-store-memory=200000000", "--min-worker-port=0", "--max-worker-port=0"),
        ]
        self._process = start_ray(command, self.environment, self._folder / "head.txt")
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def processes(self) -> list[psutil.Process]:
        """All of them by now: jobs' drivers too."""
        return family(self._process.pid)

    def kill(self) -> None:
        """kill -9 of all its processes."""
        kill_all(family(self._process.pid))
        self._process.wait(30)
        rmtree(self._folder, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.dashboard}/api/jobs/", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except urllib.error.HTTPError as error:
                if error.code == 401:  # it wants the token
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = (self._folder / "head.txt").read_text()[-2000:]
                    raise RuntimeError(f"the Ray head does not work:\n{text}") from None
            time.sleep(0.3)


class RayNode:
    """One more node of a head's cluster, which is there when the `with` block begins; its end is kill -9."""

    def __init__(self, head: RayHead, cpus: int = 1) -> None:
        # A folder of its own, as on a machine of its own: in a common one a node clears the others' packages away.
        self._folder = Path(tempfile.mkdtemp(prefix="rn-", dir="/tmp"))
        agent, agent_grpc, metrics, manager, objects = free_ports(5)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={head.address}", "--block"),
            f"--temp-dir={self._folder}",
            *("--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
            *(f"--node-manager-port={manager}", f"--object-manager-port={objects}", "--disable-usage-stats"),
            *("--object-store-memory=200000000", "--min-worker-port=0", "--max-worker-port=0"),
        ]
        self._process = start_ray(command, head.environment, self._folder / "node.txt")

    def __enter__(self) -> Self:
        deadline = time.monotonic() + READY_WITHIN_S
        while "Ray runtime started" not in (text := (self._folder / "node.txt").read_text()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the Ray node does not work:\n{text[-2000:]}")
            time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def processes(self) -> list[psutil.Process]:
        """All of them by now; none once it is dead."""
        return family(self._process.pid) if self._process.poll() is None else []

    def kill(self) -> None:
        """kill -9 of all its processes: raylet, workers and agents."""
        kill_all(self.processes())
        self._process.wait(30)
        rmtree(self._folder, ignore_errors=True)


def start_ray(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts `ray start --block` as part of a test's cluster."""
    variables = os.environ | QUIET_RAY | dict(environment)
    # A job's `python` is the one that the head finds first.
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    with log.open("w") as output:
        return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
