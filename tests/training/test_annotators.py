"""What is looked at before annotations are made, and what their processes compute on."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_datasets import make_dataset

from datapipe.annotate import Pool
from infra.errors import OutputError
from training.annotate_config import AnnotateConfig
from training.annotators import check_annotation, device_of


def test_a_dataset_that_cannot_be_written_is_told_first(tmp_path: Path):
    config = AnnotateConfig(data=make_dataset(tmp_path / "shapes", shards=1, rows=4), phash=True)
    check_annotation(config, dataset_is_ready=True)
    (tmp_path / "shapes" / "columns").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        check_annotation(config, dataset_is_ready=True)


def test_a_column_phash_of_the_list_does_not_refuse_ours(tmp_path: Path):
    place = make_dataset(tmp_path / "shapes", shards=1, rows=4)
    table = pq.read_table(tmp_path / "shapes" / "00000.parquet")
    pq.write_table(table.append_column("phash", table["color"]), tmp_path / "shapes" / "00000.parquet")
    check_annotation(AnnotateConfig(data=place, phash=True), dataset_is_ready=True)


def test_a_process_has_a_thread_where_a_node_has_fewer_cores_than_gpus():
    assert device_of(Pool(processes=2, cpus=0, gpus=1), 8).threads == 1
    assert device_of(Pool(processes=2, cpus=3), 8).threads == 3
