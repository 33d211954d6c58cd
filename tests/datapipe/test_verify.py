"""Verifying and summing up a dataset."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from pictures import picture
from small_datasets import write_annotation

from datapipe.build import build_manifest
from datapipe.config import BuildConfig
from datapipe.curate import curate
from datapipe.curate_config import CurateConfig
from datapipe.dataset import MANIFEST_FILE, Dataset
from datapipe.inspect import inspect
from datapipe.outcome import RowOutcome
from datapipe.shard import ShardWriter
from datapipe.status import SampleStatus
from datapipe.verify import verify
from infra.errors import InputError
from infra.progress import Progress
from infra.storage import sha256_of_file, storage_of
from orchestrator.show import summary_lines


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three shards of two rows; the second row of each is missing."""
    config = BuildConfig(input="", output=str(tmp_path), number_sample_per_shard=2)
    storage, stats = storage_of(tmp_path), []
    for shard in range(3):
        rows = pa.table({"url": ["http://a.example/", "http://a.example/no"], "caption": ["here", "gone"]})
        with ShardWriter(storage, shard, rows, config) as writer:
            data = picture(shard)
            writer.add(0, RowOutcome(SampleStatus.SUCCESS, "", len(data), 90, 70, 90, 70), data)
            writer.add(1, RowOutcome(SampleStatus.HTTP_404, "HTTP status 404"))
            stats.append(writer.commit())
    settings = {"output_format": "webdataset", "encode_format": "jpg"}
    storage.write_bytes(MANIFEST_FILE, build_manifest(stats, settings).to_json())
    return tmp_path


def test_an_intact_dataset_has_no_problems(dataset: Path):
    report = verify(str(dataset))
    assert (report.shards, report.problems, report.is_intact) == (3, (), True)


@pytest.mark.parametrize("file", ["00000.tar", "00001.parquet", "00002.tar"])
@pytest.mark.parametrize("place", [0, 700, -1])
def test_one_flipped_bit_in_any_file_is_found_and_the_file_named(dataset: Path, file: str, place: int):
    data = bytearray((dataset / file).read_bytes())
    data[place] ^= 1
    (dataset / file).write_bytes(data)
    assert [str(problem) for problem in verify(str(dataset)).problems] == [f"{file} has another SHA-256"]


def test_every_kind_of_damage_is_told(dataset: Path):
    (dataset / "00000.tar").unlink()
    (dataset / "00001.parquet").write_bytes(b"")
    (dataset / "00002_stats.json").write_text("{}")
    assert [str(problem) for problem in verify(str(dataset)).problems] == [
        "00000.tar is missing",
        "00001.parquet has another size",
        "00002_stats.json cannot be read as a marker",
    ]
    (dataset / "00002_stats.json").unlink()
    assert "00002_stats.json is missing" in map(str, verify(str(dataset)).problems)


def test_a_shard_of_another_dataset_in_its_place_is_found(dataset: Path):
    marker = json.loads((dataset / "00001_stats.json").read_bytes())
    marker |= {"count": 3, "status_dict": {"success": 3}, "successes": 3}
    (dataset / "00001_stats.json").write_text(json.dumps(marker))
    assert "counts other samples" in str(verify(str(dataset)).problems[0])


def test_a_table_and_a_tar_that_do_not_belong_together_are_found(dataset: Path):
    (dataset / "00001.tar").write_bytes((dataset / "00001.tar").read_bytes()[:1024])
    marker = json.loads((dataset / "00001_stats.json").read_bytes())
    facts = {"size_bytes": 1024, "sha256": sha256_of_file(dataset / "00001.tar")}
    marker["files"]["00001.tar"] = facts
    (dataset / "00001_stats.json").write_text(json.dumps(marker))
    assert [str(problem) for problem in verify(str(dataset)).problems] == [
        "00001.parquet has other samples than its marker or its tar"
    ]


def test_a_summary_adds_up_and_is_json(dataset: Path):
    summary = inspect(str(dataset))
    assert (summary.shards, summary.rows, summary.samples) == (3, 6, 3)
    assert summary.status_counts == {"http_404": 3, "success": 3}
    sizes = sum(path.stat().st_size for path in dataset.glob("*.*") if path.suffix in (".tar", ".parquet"))
    assert summary.total_bytes == sizes
    assert json.loads(json.dumps(asdict(summary)))["url"] == str(dataset)


@pytest.mark.parametrize("read", [verify, inspect])
def test_a_folder_without_a_finished_dataset_is_no_dataset(tmp_path: Path, read):
    with pytest.raises(InputError, match="no finished dataset"):
        read(str(tmp_path))


def test_annotations_are_checked_too(dataset: Path):
    opened = Dataset.open(str(dataset))
    rows = opened.manifest.shard_rows
    write_annotation(opened, "score", [[1.0] * count for count in rows], pa.float64())
    report = verify(str(dataset))
    assert report.is_intact and report.annotations == 1
    file = dataset / "columns" / "score" / "00001.parquet"
    data = bytearray(file.read_bytes())
    data[8] ^= 1
    file.write_bytes(bytes(data))
    (dataset / "columns" / "score" / "00000.parquet").unlink()
    report = verify(str(dataset))
    assert [str(problem) for problem in report.problems] == [
        "columns/score/00000.parquet is missing",
        "columns/score/00001.parquet has another SHA-256",
    ]
    assert report.has_damaged_annotations and not report.is_noted


def test_inspect_names_annotations_and_views(dataset: Path):
    opened = Dataset.open(str(dataset))
    write_annotation(opened, "score", [[1.0] * count for count in opened.manifest.shard_rows], pa.float64())
    with Progress(io.StringIO()) as progress:
        curation = curate(CurateConfig(data=str(dataset), view="some", top={"column": "score", "share": 0.5}), progress)
    summary = inspect(str(dataset))
    assert summary.annotations == {"score": opened.manifest.rows} and summary.views == {"some": curation.samples}
    assert f"view      some: {curation.samples:,} rows" in summary_lines(summary)
