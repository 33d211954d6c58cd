"""A dataset in an object store is read as one on disk."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from fault_proxy import FaultProxy
from object_store import ObjectStore
from small_datasets import make_dataset
from store_client import UseStore

from datapipe.dataset import Dataset
from datapipe.inspect import inspect
from datapipe.verify import verify
from infra.errors import CorruptData
from infra.storage import storage_of

ANSWER_S = 1.0


def test_its_pictures_and_rows_are_those_of_the_copy_on_disk(store: ObjectStore, tmp_path: Path):
    local = storage_of(make_dataset(tmp_path / "dataset", shards=2, rows=30))
    remote = storage_of(store.url(f"dataset-{uuid4().hex}"))
    for entry in local.list_files():
        remote.write_bytes(entry.path, local.read_bytes(entry.path))
    with (
        Dataset.open(local.url).open_shard(1, ["key", "caption"]) as here,
        Dataset.open(remote.url).open_shard(1, ["key", "caption"]) as there,
        ThreadPoolExecutor(8) as pool,
    ):
        assert there.samples.equals(here.samples) and len(there) == 27
        assert list(pool.map(there.image, range(27))) == [here.image(index) for index in range(27)]
    assert verify(remote.url).is_intact
    assert inspect(remote.url).samples == inspect(local.url).samples == 54


def test_damage_is_found_and_noted_for_the_next_build(store: ObjectStore, tmp_path: Path):
    local = storage_of(make_dataset(tmp_path / "dataset", shards=2, rows=30))
    remote = storage_of(store.url(f"dataset-{uuid4().hex}"))
    for entry in local.list_files():
        data = bytearray(local.read_bytes(entry.path))
        if entry.path == "00001.tar":
            data[800] ^= 1
        remote.write_bytes(entry.path, bytes(data))
    report = verify(remote.url)
    assert [str(problem) for problem in report.problems] == ["00001.tar has another SHA-256"]
    assert report.is_noted and remote.read_bytes("damaged.json") == b"[1]\n"


def test_pictures_that_are_gone_are_told_with_their_dataset(store: ObjectStore, tmp_path: Path):
    local = storage_of(make_dataset(tmp_path / "dataset", shards=1, rows=30))
    remote = storage_of(store.url(f"dataset-{uuid4().hex}"))
    for entry in local.list_files():
        if entry.path != "00000.tar":
            remote.write_bytes(entry.path, local.read_bytes(entry.path))
    with (
        Dataset.open(remote.url).open_shard(0, ["key"]) as shard,
        pytest.raises(CorruptData, match=r"00000.tar cannot be read .*it is not there"),
    ):
        shard.image(0)


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_a_shard_is_opened_with_few_requests_and_its_pictures_are_read_at_once(
    object_store: ObjectStore, use_store: UseStore, tmp_path: Path, output_format: str
):
    local = storage_of(make_dataset(tmp_path / "dataset", shards=1, rows=300, output_format=output_format))
    with FaultProxy(object_store.endpoint) as proxy:
        use_store(object_store.environment(proxy.endpoint))
        remote = storage_of(object_store.url(f"dataset-{uuid4().hex}"))
        for entry in local.list_files():
            remote.write_bytes(entry.path, local.read_bytes(entry.path))
        dataset = Dataset.open(remote.url)
        proxy.requests.clear()
        columns = ["key", "url", "caption", "color", "width", "height"]
        with dataset.open_shard(0, columns) as reader, ThreadPoolExecutor(8) as pool:
            methods = [method for method, _ in proxy.requests]
            # Footer and columns; of pictures in a table the footer once more.
            assert methods.count("GET") <= 4 and methods.count("HEAD") == (1 if output_format == "webdataset" else 2)
            proxy.requests.clear()
            proxy.delay_s, begun = ANSWER_S, time.monotonic()
            pictures = list(pool.map(reader.image, range(8)))
            took_s, proxy.delay_s = time.monotonic() - begun, 0.0
            assert len(proxy.requests) == (8 if output_format == "webdataset" else 1)  # they lie in one row group
            assert took_s < 4 * ANSWER_S  # one after the other they take eight
        with Dataset.open(local.url).open_shard(0, columns) as here:
            assert pictures == [here.image(index) for index in range(8)]
            assert reader.samples.equals(here.samples)
