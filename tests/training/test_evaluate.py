"""An evaluation's place on the cluster."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from saved_checkpoints import save_weights
from small_datasets import make_dataset

from infra.cluster import Cluster
from infra.progress import Progress
from infra.storage import storage_of
from training import evaluate
from training.checkpoint import CheckpointState
from training.config import DataSource, EvaluateConfig, LossName, RetrievalConfig
from training.model import create_model


def node(is_alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": is_alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node(CPU=64)], (4, 0)),
        ([node(CPU=2), node(CPU=3)], (3, 0)),
        ([node()], (1, 0)),
        ([node(CPU=64), node(CPU=96, GPU=8), node(is_alive=False, CPU=128, GPU=8)], (4, 1)),
        ([node(CPU=8, GPU=4)], (2, 1)),
        ([node(CPU=2, GPU=8)], (0, 1)),
    ],
)
def test_an_evaluation_asks_for_few_cores_of_one_node(nodes: list[dict[str, Any]], expected: tuple[int, int]):
    assert evaluate.room_for_a_model(nodes) == expected


@ray.remote
class Other:
    """Has cores, and does nothing with them."""

    def is_here(self) -> bool:
        return True


@pytest.mark.slow
def test_an_evaluation_that_finds_no_room_tells_so_and_begins_once_there_is(
    ray_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(evaluate, "TELL_AFTER_S", 0.5)
    state = CheckpointState(3, "diptych-tiny", "clip", 32, 100, 0, {})
    module = create_model("diptych-tiny", LossName.CLIP, seed=7)
    checkpoint = storage_of(tmp_path / "run").at(save_weights(storage_of(tmp_path / "run"), state, module.state_dict()))
    data = DataSource(path=make_dataset(tmp_path / "data", shards=1, rows=10))
    config = EvaluateConfig(retrieval=RetrievalConfig(data=data, k=[1]))
    other = Other.options(num_cpus=ray_cluster.cpus).remote()
    assert ray.get(other.is_here.remote())
    told = io.StringIO()
    with Progress(told) as progress, ThreadPoolExecutor() as threads:
        scoring = threads.submit(evaluate.evaluate, config, checkpoint, None, progress, storage_of(tmp_path / "scores"))
        deadline = time.monotonic() + 60
        while "not begun yet: it wants 4 CPU cores of one node" not in told.getvalue():
            assert time.monotonic() < deadline and not scoring.done()
            time.sleep(0.2)
        ray.kill(other)
        assert {score.samples for score in scoring.result(120).scores} == {9}
