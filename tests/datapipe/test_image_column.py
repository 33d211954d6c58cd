"""Pictures of the Parquet format are read by row groups, of which only so many are held."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datapipe import image_column
from datapipe.dataset import Dataset, Manifest
from infra.storage import storage_of

ROWS, GROUP_ROWS, PICTURE_BYTES = 3000, 100, 10_000
HELD_GROUPS = 3


def picture(row: int) -> bytes:
    return np.random.default_rng(row).bytes(PICTURE_BYTES)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One shard whose every tenth row failed; the last row group is a part of one."""
    rows = range(ROWS - 30)
    status = ["http_404" if row % 10 == 0 else "success" for row in rows]
    images = [picture(row) if row % 10 else None for row in rows]
    table = pa.table({"key": [str(row) for row in rows], "status": status, "jpg": pa.array(images, pa.binary())})
    pq.write_table(table, tmp_path / "00000.parquet", row_group_size=GROUP_ROWS)
    settings = {"output_format": "parquet", "encode_format": "jpg"}
    manifest = Manifest(1, settings, (len(table),), (status.count("success"),), {}, 0)
    return Dataset(storage_of(tmp_path), manifest)


def test_any_picture_is_read_by_any_thread_within_the_memory_allowed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_column, "HELD_BYTES", HELD_GROUPS * GROUP_ROWS * PICTURE_BYTES)
    gc.collect()
    before = pa.total_allocated_bytes()
    with dataset.open_shard(0, ["key"]) as reader, ThreadPoolExecutor(4) as threads:
        keys = reader.samples["key"].to_pylist()
        order = np.random.default_rng(1).permutation(len(reader)).tolist()
        most = 0
        for index, found in zip(order, threads.map(reader.image, order), strict=True):
            assert found == picture(int(keys[index]))
            most = max(most, pa.total_allocated_bytes() - before)
        assert [found == picture(int(key)) for found, key in zip(reader.images(), keys, strict=True)].count(False) == 0
    # Each of four threads may have just read one more; reading takes a copy of its own.
    assert most <= 2 * (HELD_GROUPS + 4) * GROUP_ROWS * PICTURE_BYTES < ROWS * PICTURE_BYTES


def test_what_is_held_of_a_shard_goes_with_its_reader(dataset: Dataset):
    gc.collect()
    before = pa.total_allocated_bytes()
    reader = dataset.open_shard(0, ["key"])
    assert reader.image(5) == picture(6)
    assert pa.total_allocated_bytes() - before > GROUP_ROWS * PICTURE_BYTES / 2
    del reader
    gc.collect()
    assert pa.total_allocated_bytes() - before < GROUP_ROWS * PICTURE_BYTES / 2
