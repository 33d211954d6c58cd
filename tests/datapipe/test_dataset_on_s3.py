"""A dataset in an object store is read as one on disk."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from object_store import ObjectStore
from small_datasets import make_dataset

from datapipe.dataset import Dataset
from datapipe.inspect import inspect
from datapipe.verify import verify
from infra.storage import storage_of


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
