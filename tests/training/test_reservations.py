"""What a dead group of workers had reserved is free for the next one, and nobody else's is touched."""

import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table

from infra.cluster import Cluster
from training.reservations import free_reservations

OTHER_JOB = """
import sys, ray
from ray.util.placement_group import placement_group
ray.init(address=sys.argv[1], log_to_driver=False)
group = placement_group([{"CPU": 1}])
ray.get(group.ready())
print(group.id.hex(), flush=True)
sys.stdin.read()
"""


@ray.remote(num_cpus=0)
class Controller:
    """Reserves the cores for its workers as Ray Train's does, and dies over starting them."""

    def start_workers(self, cpus: int) -> None:
        group = placement_group([{"CPU": 1}] * cpus)
        assert group.wait(60)
        raise SystemExit(1)


def test_the_next_group_of_workers_finds_the_room_of_the_last(ray_cluster: Cluster, tmp_path: Path):
    address = ray.get_runtime_context().gcs_address
    with (tmp_path / "other.log").open("w") as log:
        other = subprocess.Popen(
            [sys.executable, "-c", OTHER_JOB, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert other.stdin is not None and other.stdout is not None
        theirs = other.stdout.readline().strip()
        room = ray_cluster.cpus - 1
        controller = Controller.remote()
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(controller.start_workers.remote(room))
        assert free_reservations() == 1
        again = placement_group([{"CPU": 1}] * room)
        assert again.wait(60)
        assert placement_group_table()[theirs]["state"] == "CREATED"
        assert free_reservations() == 1 and free_reservations() == 0
    finally:
        other.communicate("")
