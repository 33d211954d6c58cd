"""On which devices the workers train."""

from pathlib import Path
from typing import Any

import pytest

from infra.cluster import Cluster
from infra.errors import ConfigError
from training.config import TrainConfig
from training.room import uses_gpu


def config(**values: Any) -> TrainConfig:
    return TrainConfig(data="unused", steps=1, **values)


def cluster(gpus: int) -> Cluster:
    return Cluster(cpus=16, gpus=gpus, logs=Path("unused"), scratch=Path("unused"))


@pytest.mark.parametrize(
    ("values", "gpus", "expected"),
    [
        ({"workers": 8}, 0, False),
        ({"workers": 8}, 8, True),
        ({"workers": [2, 8]}, 2, True),
        ({"workers": 8, "use_gpu": False}, 4, False),
        ({"workers": 8, "use_gpu": True}, 4, True),  # then it is the room that is too small
    ],
)
def test_every_worker_has_a_gpu_or_none_has(values: dict[str, Any], gpus: int, expected: bool):
    assert uses_gpu(config(**values), cluster(gpus)) is expected


@pytest.mark.parametrize(("workers", "gpus"), [(8, 4), ([2, 8], 1)])
def test_fewer_gpus_than_workers_are_refused_and_not_left_idle(workers: int | list[int], gpus: int):
    with pytest.raises(ConfigError, match=rf"the cluster are {gpus}\.\n.*\n.*train\.workers={gpus}, or train\.use_gpu"):
        uses_gpu(config(workers=workers), cluster(gpus))
