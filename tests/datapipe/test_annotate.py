"""Annotations have a value for each row, are made once, go on where they were, and are read only as committed."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray import cloudpickle
from small_datasets import make_dataset

from datapipe.annotate import Pool, annotate
from datapipe.annotation import annotation_names, find_annotation, is_annotated, read_values, require_annotation
from datapipe.dataset import Dataset, ShardReader
from datapipe.phash import PerceptualHash, perceptual_hash
from infra.errors import ConfigError, CorruptData, OutputError, StageFailed
from infra.progress import Progress
from infra.storage import storage_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers know no test

ROWS, SHARDS = 12, 3
BROKEN = frozenset({4, 15})
POOL = Pool(processes=2)

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class Lengths:
    """Annotates with the length of the picture's file; notes each shard that it is asked for in a folder."""

    asked: Path
    factor: int = 1
    fails_at: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"kind": "lengths", "factor": self.factor}

    @property
    def columns(self) -> Sequence[str]:
        return ("caption",)

    @property
    def type(self) -> pa.DataType:
        return pa.int64()

    def values(self, shard: ShardReader) -> pa.Array:
        number = int(shard.samples["key"][0].as_py()[:5])
        if number == self.fails_at:
            raise ZeroDivisionError("a fault of the annotator")
        (self.asked / f"{number}").write_text("asked")
        return pa.array([len(image) * self.factor for image in shard.images()], pa.int64())


def run(dataset: Dataset, annotator: Any, name: str = "length") -> str:
    shown = StringIO()
    with Progress(shown) as progress:
        annotate(dataset, name, annotator, POOL, progress)
    return shown.getvalue()


def asked_for(folder: Path) -> list[int]:
    found = sorted(int(path.name) for path in folder.iterdir())
    for path in folder.iterdir():
        path.unlink()
    return found


def values(dataset: Dataset, name: str) -> list[list[Any]]:
    annotation = require_annotation(dataset.storage, name)
    return [read_values(dataset, annotation, shard).to_pylist() for shard in range(SHARDS)]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    (tmp_path / "asked").mkdir()
    return tmp_path / "asked"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.open(make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS, broken=BROKEN))


@pytest.mark.parametrize("output_format", ["webdataset", "parquet"])
def test_each_row_has_the_value_of_its_picture(tmp_path: Path, output_format: str):
    place = make_dataset(tmp_path / "shapes", shards=SHARDS, rows=ROWS, broken=BROKEN, output_format=output_format)
    dataset = Dataset.open(place)
    told = run(dataset, PerceptualHash(), "phash")
    found = values(dataset, "phash")
    for shard in range(SHARDS):
        status = dataset.read_rows(shard, ["status"])["status"].to_pylist()
        reader = dataset.open_shard(shard, ["key"])
        hashes = iter([perceptual_hash(reader.image(index)) for index in range(len(reader))])
        assert found[shard] == [next(hashes) if state == "success" else None for state in status]
    nulls = sum(value is None for shard in found for value in shard)
    assert nulls == len(BROKEN) + 3  # every tenth row failed
    assert f"phash: {ROWS * SHARDS - nulls} values for {ROWS * SHARDS} rows" in told


def test_others_join_it_by_key(dataset: Dataset, asked: Path):
    run(dataset, Lengths(asked))
    place = dataset.storage.url
    rows = duckdb.sql(
        f"select s.key, s.image_length, a.length from '{place}/*.parquet' s join '{place}/columns/length/*.parquet' a "
        "using (key) where s.status = 'success'"
    ).fetchall()
    assert len(rows) == dataset.manifest.samples and all(length == annotated for _, length, annotated in rows)


def test_what_is_there_is_kept_and_what_is_missing_or_damaged_is_made(dataset: Dataset, asked: Path):
    run(dataset, Lengths(asked))
    assert asked_for(asked) == [0, 1, 2]
    before = values(dataset, "length")
    run(dataset, Lengths(asked))
    assert asked_for(asked) == []

    folder = dataset.storage.at("columns/length")
    data = bytearray(folder.read_bytes("00001.parquet"))
    data[30] ^= 1
    folder.write_bytes("00001.parquet", bytes(data))
    folder.delete("00002.parquet")
    assert not is_annotated(dataset.storage, "length", Lengths(asked).settings)
    with pytest.raises(CorruptData, match=r"00001\.parquet is missing, or not as"):
        values(dataset, "length")
    run(dataset, Lengths(asked))
    assert asked_for(asked) == [1, 2] and values(dataset, "length") == before


def test_one_of_a_shard_that_was_mended_with_other_bytes_is_not_done(dataset: Dataset, asked: Path, tmp_path: Path):
    run(dataset, Lengths(asked))
    assert is_annotated(dataset.storage, "length", Lengths(asked).settings)
    other = storage_of(make_dataset(tmp_path / "others", shards=SHARDS, rows=ROWS))
    for file in ("00000.tar", "00000.parquet", "00000_stats.json"):
        dataset.storage.write_bytes(file, other.read_bytes(file))
    assert not is_annotated(dataset.storage, "length", Lengths(asked).settings)
    asked_for(asked)
    run(dataset, Lengths(asked))
    assert asked_for(asked) == [0]
    assert is_annotated(dataset.storage, "length", Lengths(asked).settings)


def test_one_whose_folder_was_renamed_is_made_anew(dataset: Dataset, asked: Path):
    run(dataset, Lengths(asked))
    columns = dataset.storage.local_path("columns")
    (columns / "length").rename(columns / "size")
    asked_for(asked)
    run(dataset, Lengths(asked), "size")
    assert asked_for(asked) == [0, 1, 2] and is_annotated(dataset.storage, "size", Lengths(asked).settings)


def test_one_that_stopped_goes_on(dataset: Dataset, asked: Path):
    with pytest.raises(StageFailed, match="a fault of the annotator"):
        run(dataset, Lengths(asked, fails_at=2))
    assert find_annotation(dataset.storage, "length") is None and annotation_names(dataset.storage) == []
    begun = asked_for(asked)
    run(dataset, Lengths(asked))
    assert sorted(begun + asked_for(asked)) == [0, 1, 2]
    assert annotation_names(dataset.storage) == ["length"]


def test_other_settings_and_another_dataset_make_it_anew(dataset: Dataset, asked: Path, tmp_path: Path):
    run(dataset, Lengths(asked))
    once = values(dataset, "length")
    asked_for(asked)
    run(dataset, Lengths(asked, factor=2))
    assert asked_for(asked) == [0, 1, 2]
    assert values(dataset, "length") == [[value and 2 * value for value in shard] for shard in once]

    # The same files beside other shards.
    other = Dataset.open(make_dataset(tmp_path / "others", shards=SHARDS, rows=ROWS))
    for file in [entry.path for entry in dataset.storage.list_files("columns", recursive=True)]:
        other.storage.write_bytes(file, dataset.storage.read_bytes(file))
    run(other, Lengths(asked, factor=2))
    # Shard 2 has no broken picture in either, and is the same in both but for the noise before it.
    assert set(asked_for(asked)) >= {0, 1}


def test_the_same_bytes_whatever_the_number_of_processes(dataset: Dataset, asked: Path):
    run(dataset, Lengths(asked))
    paths = [entry.path for entry in dataset.storage.list_files("columns/length")]
    files = {path: dataset.storage.read_bytes(path) for path in paths}
    dataset.storage.delete_folder("columns")
    with Progress(StringIO()) as progress:
        annotate(dataset, "length", Lengths(asked), Pool(processes=1), progress)
    assert files == {path: dataset.storage.read_bytes(path) for path in paths}
    tables = [pq.read_table(pa.BufferReader(files[path])) for path in paths if path.endswith(".parquet")]
    assert [table.column_names for table in tables] == [["key", "length"]] * SHARDS


def test_a_name_that_is_not_there_is_told_with_those_that_are(dataset: Dataset, asked: Path):
    run(dataset, Lengths(asked))
    with pytest.raises(ConfigError, match="no annotation 'clip_score'") as told:
        require_annotation(dataset.storage, "clip_score")
    assert "length" in str(told.value)


def test_a_place_that_cannot_be_written_is_told(dataset: Dataset, asked: Path):
    dataset.storage.write_bytes("columns", b"in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        run(dataset, Lengths(asked))


def test_a_dataset_that_is_not_whole_is_refused(dataset: Dataset, asked: Path):
    dataset.storage.delete("00001.tar")
    with pytest.raises(CorruptData, match="of 3 shards 1 are not as committed"):
        run(dataset, Lengths(asked))
