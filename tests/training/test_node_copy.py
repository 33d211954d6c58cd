"""A checkpoint in object storage is copied once to each node, and not by each of its ranks."""

import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from fault_proxy import FaultProxy
from object_store import ObjectStore
from ranks import Ranks
from saved_checkpoints import save_weights
from store_client import UseStore, forget_clients

from infra.storage import Storage, storage_of
from training.checkpoint import CheckpointState, TensorKind, load_tensors, read_files
from training.node_copy import on_this_node

STATE = CheckpointState(
    step=7, model="diptych-nano", loss="clip", batch_size=8, samples=64, seed=0, settings={}, skipped=0
)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return {f"layer{number}": torch.full((100, 10), float(number)) for number in range(4)}


def loaded(_group: Any, url: str, environment: dict[str, str], hidden: str | None) -> tuple[str, dict[str, float]]:
    """The place of the copy, and the sum of each tensor that was read from it, taken after the copy is gone."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        forget_clients()
        if hidden is not None:
            # A container of its own: the same machine's name, another disk.
            patch.setattr(tempfile, "tempdir", hidden)
            patch.setattr(Path, "exists", lambda path: str(path).startswith(hidden))
        with on_this_node(storage_of(url)) as copy:
            tensors = load_tensors(copy, TensorKind.PARAMETERS)
        return copy.url, {name: float(tensor.sum()) for name, tensor in tensors.items()}


def test_ranks_of_a_node_read_each_file_once_and_leave_nothing(
    ranks: Ranks, object_store: ObjectStore, use_store: UseStore, weights: dict[str, torch.Tensor]
):
    with FaultProxy(object_store.endpoint) as proxy:
        environment = object_store.environment(proxy.endpoint)
        use_store(environment)
        run = storage_of(object_store.url(f"run-{uuid4().hex}"))
        checkpoint = run.at(save_weights(run, STATE, weights))
        names = list(read_files(checkpoint))
        proxy.requests.clear()
        results = ranks.run(loaded, [(checkpoint.url, environment, None)] * 3)
        read = [target for method, target in proxy.requests if method == "GET" and "safetensors" in target]
    assert len(read) == len(names)
    places = {place for place, _ in results}
    assert len(places) == 1 and not Path(places.pop()).exists()
    assert [found for _, found in results] == [{name: float(value.sum()) for name, value in weights.items()}] * 3


def test_ranks_that_do_not_see_each_others_disk_have_copies_of_their_own(
    ranks: Ranks, store: ObjectStore, tmp_path: Path, weights: dict[str, torch.Tensor]
):
    run = storage_of(store.url(f"run-{uuid4().hex}"))
    checkpoint = run.at(save_weights(run, STATE, weights))
    disks = [tmp_path / name for name in ("first", "first", "second")]
    for disk in disks:
        disk.mkdir(exist_ok=True)
    results = ranks.run(loaded, [(checkpoint.url, store.environment(), str(disk)) for disk in disks])
    assert [Path(place).parent for place, _ in results] == disks
    assert results[0][0] == results[1][0]
    assert len({tuple(found.items()) for _, found in results}) == 1
    assert not [*disks[0].iterdir(), *disks[2].iterdir()]


def test_a_checkpoint_on_disk_is_read_where_it_lies(tmp_path: Path, weights: dict[str, torch.Tensor]):
    run = storage_of(tmp_path)
    checkpoint: Storage = run.at(save_weights(run, STATE, weights))
    with on_this_node(checkpoint) as copy:
        assert copy is checkpoint
