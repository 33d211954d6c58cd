"""On a cluster without nodes, a build brings them: Ray's own autoscaler, with nodes that are processes here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from own_machine import ISOLATED, require_own_machine
from PIL import Image

from datapipe.inspect import inspect
from infra.deploy.autoscaler import CloudPlace, aws_cluster
from orchestrator.cluster_needs import autoscaled_needs
from orchestrator.config import load_config

pytestmark = pytest.mark.slow

PICTURES = 20
WAIT_S = 600
# The head has no core for tasks, as in our cluster files.
SCRIPT = """
set -euo pipefail
mount -t tmpfs tmpfs /mnt
ip link set lo up
python -m http.server --bind 127.0.0.1 --directory web 8000 2> web.txt &
ray start --head --num-cpus=0 --object-store-memory=100000000 --autoscaling-config=cluster.json
ray status
diptych run run.yaml --address auto
"""


def local_cluster(cluster: dict[str, Any]) -> dict[str, Any]:
    """The cluster file with processes of this machine in place of a cloud's machines."""
    small = {"CPU": 1, "object_store_memory": 100_000_000}
    nodes = {
        name: node | {"node_config": {}, "resources": small} for name, node in cluster["available_node_types"].items()
    }
    nodes["head"]["resources"] = {"CPU": 0}
    provider = {"type": "fake_multinode", "disable_launch_config_check": True, "disable_node_updaters": True}
    keys = ("cluster_name", "max_workers", "head_node_type", "upscaling_speed", "idle_timeout_minutes")
    nothing: dict[str, Any] = {key: {} for key in ("auth", "docker", "file_mounts")}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    nothing |= {f"{name}_commands": [] for name in commands} | {"file_mounts_sync_continuously": False}
    nothing |= {key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")}
    return {key: cluster[key] for key in keys} | nothing | {"provider": provider, "available_node_types": nodes}


def test_a_build_on_a_cluster_without_nodes_gets_them(tmp_path: Path):
    require_own_machine()
    (tmp_path / "web").mkdir()
    chance = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = chance.integers(0, 255, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "web" / f"{number}.jpg")
    urls = [f"http://127.0.0.1:8000/{number}.jpg" for number in range(PICTURES)]
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "urls.parquet")
    (tmp_path / "birds.yaml").write_text(f"""\
storage: {tmp_path}/runs
build: {{input: {tmp_path}/urls.parquet, output: {tmp_path}/birds, number_sample_per_shard: 10, tasks: 2,
        allow_private_addresses: [127.0.0.0/8]}}
""")
    wanted = autoscaled_needs(load_config(tmp_path / "birds.yaml"))
    cluster = yaml.safe_load(aws_cluster(wanted, CloudPlace("i", "us-west-2", "ami-1", "s:/")))
    cluster["available_node_types"]["build"]["max_workers"] = cluster["max_workers"] = 2
    (tmp_path / "run.yaml").write_text(wanted.config)
    (tmp_path / "cluster.json").write_text(json.dumps(local_cluster(cluster)))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": "/mnt",
        "RAY_TMPDIR": "/mnt",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "0",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    with (tmp_path / "output.txt").open("w+") as output:
        job = subprocess.Popen(
            [*ISOLATED, "--net", "bash", "-c", SCRIPT],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            assert job.wait(timeout=WAIT_S) == 0, (tmp_path / "output.txt").read_text()
        finally:
            job.kill()
    assert inspect(str(tmp_path / "birds")).samples == PICTURES
