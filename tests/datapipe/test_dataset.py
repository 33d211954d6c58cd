"""A dataset is opened only with a manifest that is one, and its shards are read as they were committed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_datasets import make_dataset

from datapipe.build import is_complete
from datapipe.dataset import Dataset
from datapipe.marker import ShardStats
from datapipe.verify import verify
from infra.errors import CorruptData, InputError
from infra.storage import storage_of

FORMATS = ["webdataset", "parquet"]


def other_version(raw: dict[str, Any]) -> dict[str, Any]:
    return {"format_version": 2, "shards": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_version, "has format version 2"),
        (lambda raw: raw | {"more": 1}, "is no manifest"),
        (lambda raw: raw | {"shard_rows": None}, "is no manifest"),
        (lambda raw: raw | {"settings": {}}, "is no manifest"),
        (lambda raw: {key: value for key, value in raw.items() if key != "total_bytes"}, "is no manifest"),
        (lambda raw: {"name": "of another tool"}, "is no manifest"),
        (lambda raw: [], "is no manifest"),
    ],
)
def test_a_manifest_of_another_kind_is_explained(tmp_path: Path, change: Callable[[Any], Any], words: str):
    place = tmp_path / "shapes" / "dataset.json"
    make_dataset(place.parent, shards=1, rows=4)
    place.write_text(json.dumps(change(json.loads(place.read_text()))))
    with pytest.raises(InputError, match=words):
        Dataset.open(str(place.parent))
    assert not is_complete(storage_of(place.parent))


@pytest.mark.parametrize("torn", [b"", b'{"format_', b"\xff\xfe"])
def test_a_torn_manifest_is_explained(tmp_path: Path, torn: bytes):
    make_dataset(tmp_path / "shapes", shards=1, rows=4)
    (tmp_path / "shapes" / "dataset.json").write_bytes(torn)
    with pytest.raises(InputError, match=r"dataset\.json is no manifest"):
        Dataset.open(str(tmp_path / "shapes"))


@pytest.mark.parametrize("wrong", ['"files": []', '"status_dict": []', '"files": {"a": []}', '"files": {"a": {}}'])
def test_a_marker_of_another_kind_makes_its_shard_unfinished(tmp_path: Path, wrong: str):
    url = make_dataset(tmp_path / "shapes", shards=1, rows=4)
    marker = tmp_path / "shapes" / "00000_stats.json"
    raw = json.loads(marker.read_text()) | json.loads(f"{{{wrong}}}")
    marker.write_text(json.dumps(raw))
    assert not is_complete(storage_of(url))
    assert [str(problem) for problem in verify(url).problems] == ["00000_stats.json cannot be read as a marker"]
    with pytest.raises((ValueError, TypeError)):
        ShardStats.from_json(0, marker.read_bytes())


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_column_that_a_part_of_the_shards_has_is_null_in_the_others(tmp_path: Path, output_format: str):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=2, rows=10, output_format=output_format))
    place = tmp_path / "shapes" / "00001.parquet"
    pq.write_table(pq.read_table(place).append_column("extra", pa.array(range(10))), place)
    assert dataset.find_columns(["extra", "color", "none"]) == {"color": pa.string(), "extra": pa.int64()}
    assert dataset.read_rows(0, ["extra", "color"]).column_names == ["extra", "color"]
    for shard, wanted in ((0, [None] * 9), (1, [*range(9)])):
        with dataset.open_shard(shard, ["key", "extra"]) as reader:
            assert reader.samples["extra"].to_pylist() == wanted
            assert reader.image(3) == list(reader.images())[3] != b""


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is gone": lambda place: place.unlink(),
    "is empty": lambda place: place.write_bytes(b""),
    "has a broken footer": lambda place: place.write_bytes(b"PAR1" + b"\xff" * 40 + b"\x20\0\0\0PAR1"),
    "has other columns": lambda place: pq.write_table(pa.table({"caption": ["x"]}), place),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_table_that_cannot_be_read_is_told_with_its_shard(tmp_path: Path, damage: Callable[[Path], object]):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=2, rows=10))
    damage(tmp_path / "shapes" / "00001.parquet")
    with pytest.raises(CorruptData, match=r"00001\.parquet cannot be read.*\n.*\n.*diptych build"):
        dataset.open_shard(1, ["key", "caption"])


def test_a_tar_that_is_gone_is_told(tmp_path: Path):
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=10))
    (tmp_path / "shapes" / "00000.tar").unlink()
    with pytest.raises(CorruptData, match=r"00000\.tar cannot be read"):
        dataset.open_shard(0, ["key"])


CAPTIONS: dict[str, tuple[pa.Array, bool, dict[str, Any]]] = {
    "each has one": (pa.array(["a", "ü", " ", "\0"] * 10), True, {}),
    "large texts": (pa.array(["x" * 1000, "b"] * 20, pa.large_string()), True, {}),
    "too long for statistics": (pa.array(["x" * 10_000, "b"] * 20), False, {}),
    "in several row groups": (pa.array(["a"] * 40), True, {"row_group_size": 7}),
    "one is empty": (pa.array(["a"] * 39 + [""]), False, {"row_group_size": 7}),
    "one is null": (pa.array(["a"] * 39 + [None]), False, {"row_group_size": 7}),
    "without statistics": (pa.array(["a"] * 40), False, {"write_statistics": False}),
    "lists": (pa.array([["a"]] * 40), False, {}),
    "numbers": (pa.array([7] * 40), False, {}),
    "bytes": (pa.array([b"a"] * 40), False, {}),
    "nothing": (pa.nulls(40), False, {}),
}


@pytest.mark.parametrize("kind", CAPTIONS)
def test_captions_are_not_read_where_the_files_statistics_say_that_each_row_has_one(tmp_path: Path, kind: str):
    values, is_filled, options = CAPTIONS[kind]
    dataset = Dataset.open(make_dataset(tmp_path / "shapes", shards=1, rows=40))
    file = tmp_path / "shapes" / "00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(table.schema.get_field_index("caption"), "caption", values), file, **options)
    rows, found = dataset.read_rows_to_choose(0, ["status"], ["caption"])
    assert found is is_filled and rows.column_names == (["status"] if is_filled else ["status", "caption"])
    assert dataset.read_rows_to_choose(0, ["status"], ["gone", "caption"])[1] is is_filled
    assert dataset.read_rows_to_choose(0, ["caption"], ["caption"])[0].column_names == ["caption"]
