"""Shards: the bytes are the same every time, and every tool that reads img2dataset's layout reads them."""

import hashlib
import json
import math
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from datapipe.config import BuildConfig
from datapipe.marker import ShardStats
from datapipe.outcome import RowOutcome
from datapipe.shard import ShardWriter, sample_key
from datapipe.status import SampleStatus
from infra.errors import CorruptData, OutputError
from infra.storage import Storage, storage_of

ROWS = pa.table(
    {
        "url": ["http://a.example/0", "http://a.example/1", None, "http://a.example/3"],
        "caption": ["a fox", None, "x", 'Füchse\t"und"\n\x00 狐'],
        "licence": [1, 2, 3, None],
    }
)


def config(tmp_path: Path, **values: object) -> BuildConfig:
    return BuildConfig.model_validate({"input": "", "output": str(tmp_path), "number_sample_per_shard": 1000, **values})


def write(tmp_path: Path, shard: int = 2, **values: object) -> tuple[Storage, ShardStats]:
    """A shard of four rows; 0, 1 and 3 are good. They come in another order than that of the rows."""
    storage = storage_of(tmp_path)
    with ShardWriter(storage, shard, ROWS, config(tmp_path, **values)) as writer:
        for row in (3, 0, 2, 1):
            writer.add(row, *(good_row(f"picture {row}".encode() * 100 * (row + 1)) if row != 2 else EMPTY))
        return storage, writer.commit()


EMPTY = (RowOutcome(SampleStatus.URL_EMPTY, "the URL is empty"), None)


def good_row(data: bytes) -> tuple[RowOutcome, bytes]:
    digest = hashlib.sha256(data).hexdigest()
    return RowOutcome(SampleStatus.SUCCESS, "", len(data), 30, 20, 300, 200, "{}", digest), data


@given(st.integers(0, 200_000), st.integers(1, 20_000), st.data())
def test_keys_are_img2datasets(shard: int, rows_per_shard: int, data: st.DataObject):
    row = data.draw(st.integers(0, rows_per_shard - 1))
    # img2dataset 1.47, downloader.py: compute_key, with oom_shard_count 5.
    digits = math.ceil(math.log10(rows_per_shard))
    assert sample_key(shard, row, rows_per_shard) == f"{10**digits * shard + row:0{digits + 5}d}"


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, output_format: str):
    (first, one), (second, two) = (write(tmp_path / name, output_format=output_format) for name in "ab")
    assert one == two
    assert [entry.path for entry in first.list_files()] == [entry.path for entry in second.list_files()]
    for entry in first.list_files():
        assert first.read_bytes(entry.path) == second.read_bytes(entry.path)


def test_the_webdataset_library_reads_the_samples_in_row_order(tmp_path: Path):
    write(tmp_path)
    samples = list(webdataset.WebDataset(str(tmp_path / "00002.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["00002000", "00002001", "00002003"]
    assert [sample["jpg"][:9] for sample in samples] == [b"picture 0", b"picture 1", b"picture 3"]
    assert [sample["txt"].decode() for sample in samples] == ["a fox", "", 'Füchse\t"und"\n\x00 狐']
    assert json.loads(samples[0]["json"]) == {
        "url": "http://a.example/0",
        "caption": "a fox",
        "licence": 1,
        "key": "00002000",
        "status": "success",
        "error_message": None,
        "width": 30,
        "height": 20,
        "original_width": 300,
        "original_height": 200,
        "exif": "{}",
        "sha256": hashlib.sha256(samples[0]["jpg"]).hexdigest(),
    }


def test_a_value_that_python_cannot_hold_costs_no_more_than_itself(tmp_path: Path):
    far = 10**12  # seconds: the year 33658
    kinds = {
        "seen": pa.array([far, 0], pa.timestamp("s")),
        "day": pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32()),
        "span": pa.array([2**60, 1], pa.duration("s")),
        "place": pa.array([0, None], pa.timestamp("s", "No/Where")),
        "times": pa.array([[far], [0]], pa.list_(pa.timestamp("s"))),
        "score": pa.array([1, 2]),
    }
    texts = {"url": ["u", "v"], "caption": ["a", "b"]}
    with ShardWriter(storage_of(tmp_path), 0, pa.table(texts | kinds), config(tmp_path)) as writer:
        for row in range(2):
            writer.add(row, *good_row(b"picture"))
        writer.commit()
    first, second = (
        json.loads(sample["json"]) for sample in webdataset.WebDataset(str(tmp_path / "00000.tar"), shardshuffle=False)
    )
    assert [first[name] for name in kinds] == [
        "<value out of range: 1000000000000>",
        "<value out of range: 2147483647>",
        str(2**60),
        None,
        None,
        1,
    ]
    assert [second[name] for name in kinds] == [
        "1970-01-01 00:00:00",
        "1970-01-01",
        "0:00:01",
        None,
        ["1970-01-01 00:00:00"],
        2,
    ]
    table = pq.read_table(tmp_path / "00000.parquet")
    assert table["seen"].cast(pa.int64()).to_pylist() == [far * 1000, 0]


def test_the_table_has_every_input_row_and_where_its_picture_lies(tmp_path: Path):
    storage, _ = write(tmp_path)
    rows = pq.read_table(tmp_path / "00002.parquet").to_pylist()
    assert [row["url"] for row in rows] == ROWS["url"].to_pylist()
    assert [row["licence"] for row in rows] == [1, 2, 3, None]
    assert [row["status"] for row in rows] == ["success", "success", "url_empty", "success"]
    assert rows[2]["error_message"] == "the URL is empty" and rows[2]["image_offset"] is None
    for row in (0, 1, 3):
        data = storage.read_range("00002.tar", rows[row]["image_offset"], rows[row]["image_length"])
        assert data == f"picture {row}".encode() * 100 * (row + 1)


def test_the_tar_tells_nothing_of_when_and_by_whom_it_was_made(tmp_path: Path):
    write(tmp_path)
    with tarfile.open(tmp_path / "00002.tar") as tar:
        facts = {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in tar}
    assert facts == {(0, 0, 0, "", "")}


def test_without_captions_there_is_no_text_file(tmp_path: Path):
    write(tmp_path, caption_col=None)
    with tarfile.open(tmp_path / "00002.tar") as tar:
        assert {Path(name).suffix for name in tar.getnames()} == {".jpg", ".json"}


def test_in_parquet_the_pictures_are_a_column(tmp_path: Path):
    write(tmp_path, output_format="parquet", encode_format="webp")
    images = pq.read_table(tmp_path / "00002.parquet")["webp"].to_pylist()
    assert images[2] is None and images[3] == b"picture 3" * 400
    assert not (tmp_path / "00002.tar").exists()


def test_the_marker_has_img2datasets_counts_and_vouches_for_the_bytes(tmp_path: Path):
    storage, stats = write(tmp_path)
    marker = json.loads(storage.read_bytes("00002_stats.json"))
    assert (marker["count"], marker["successes"], marker["failed_to_download"], marker["failed_to_resize"]) == (
        4,
        3,
        1,
        0,
    )
    assert marker["status_dict"] == {"success": 3, "url_empty": 1}
    for name, facts in marker["files"].items():
        data = storage.read_bytes(name)
        assert facts == {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert ShardStats.from_json(2, storage.read_bytes("00002_stats.json")) == stats


def test_a_row_that_got_lost_is_an_error_and_nothing_is_written(tmp_path: Path):
    with ShardWriter(storage_of(tmp_path), 0, ROWS, config(tmp_path)) as writer, pytest.raises(CorruptData):
        for row in range(3):
            writer.add(row, *EMPTY)
        writer.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_marker_from_before_is_gone_before_other_bytes_come(tmp_path: Path):
    write(tmp_path)
    (tmp_path / "00002.tar").unlink()
    (tmp_path / "00002.tar").mkdir()  # so that putting the new one there fails
    with pytest.raises(OutputError):
        write(tmp_path)
    assert not (tmp_path / "00002_stats.json").exists()


def test_an_empty_shard_is_a_shard(tmp_path: Path):
    with ShardWriter(storage_of(tmp_path), 0, ROWS, config(tmp_path)) as writer:
        for row in range(4):
            writer.add(row, RowOutcome(SampleStatus.HTTP_404, "HTTP status 404"))
        stats = writer.commit()
    assert (stats.rows, stats.samples) == (4, 0)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert tar.getnames() == []
