"""One shard from URLs to files, and what happens when its middle fails."""

import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile_web import HostileWeb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import picture

from datapipe import shard_task
from datapipe.config import BuildConfig
from datapipe.plan import InputFile, Piece, ShardPlan, plan_shards
from datapipe.rows import read_rows
from datapipe.shard_task import build_shard
from infra.errors import InputError, OutputError


def config(tmp_path: Path, **values: object) -> BuildConfig:
    fixed = {"input": "", "output": str(tmp_path), "allow_private_addresses": ["127.0.0.0/8"], "retries": 0}
    return BuildConfig.model_validate(fixed | values)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 9), st.integers(1, 25))
def test_the_rows_of_all_shards_are_the_lists_rows(tmp_path: Path, sizes: list[int], group: int, rows_per_shard: int):
    first, files = 0, []
    for number, size in enumerate(sizes):
        table = pa.table({"url": [f"u{row}" for row in range(first, first + size)], "caption": ["c"] * size})
        pq.write_table(table, tmp_path / f"{number}.parquet", row_group_size=group)
        files.append(InputFile(str(tmp_path / f"{number}.parquet"), size))
        first += size
    read = [read_rows(plan.pieces, config(tmp_path)) for plan in plan_shards(files, rows_per_shard)]
    assert pa.concat_tables(read)["url"].to_pylist() == [f"u{row}" for row in range(sum(sizes))]


def test_columns_come_by_the_names_of_the_config(tmp_path: Path):
    table = pa.table({"licence": ["x"], "URL": ["u"], "TEXT": pa.array(["c"]).dictionary_encode(), "n": [7]})
    pq.write_table(table, tmp_path / "list.parquet")
    pieces = [Piece(str(tmp_path / "list.parquet"), 0, 1)]
    names = {"url_col": "URL", "caption_col": "TEXT"}
    assert read_rows(pieces, config(tmp_path, **names)).to_pylist() == [
        {"url": "u", "caption": "c", "licence": "x", "n": 7}
    ]
    kept = config(tmp_path, **names, save_additional_columns=["n"])
    assert read_rows(pieces, kept).column_names == ["url", "caption", "n"]


def test_a_list_that_shrank_meanwhile_is_an_error(tmp_path: Path):
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_rows([Piece(str(tmp_path / "list.parquet"), 0, 2)], config(tmp_path))


def test_a_failure_in_the_middle_ends_the_shard_at_once_and_leaves_nothing(web: HostileWeb, tmp_path: Path):
    urls = [web.serve(f"/{number}", picture(number)) for number in range(200)]
    urls.append(web.at("/hang", lambda visit: visit.hang()))
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "list.parquet")
    output = tmp_path / "out"
    output.mkdir()

    def fail(_progress: object) -> None:
        time.sleep(0.5)  # meanwhile the backlog fills
        raise OutputError("The disk is full.")

    plan = ShardPlan(0, (Piece(str(tmp_path / "list.parquet"), 0, 201),))
    started = time.monotonic()
    with pytest.raises(OutputError):
        build_shard(plan, config(output, timeout=30), fail)
    assert time.monotonic() - started < 3.0
    assert list(output.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "fetch"]


def test_a_scratch_disk_that_cannot_be_written_commits_no_shard(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shard_task, "scratch_folder", lambda _: tmp_path / "gone")
    urls = [web.serve("/0", picture(0)), web.serve("/large", b"x" * (6 << 20))]
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "list.parquet")
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        build_shard(ShardPlan(0, (Piece(str(tmp_path / "list.parquet"), 0, 2),)), config(output), lambda _: None)
    assert list(output.iterdir()) == []


def test_progress_is_told_row_by_row(web: HostileWeb, tmp_path: Path):
    urls = [web.serve("/0", picture(0)), None, web.base + "/none"]
    pq.write_table(pa.table({"url": urls, "caption": ["a", "b", None]}), tmp_path / "list.parquet")
    told: list[int] = []
    plan = ShardPlan(0, (Piece(str(tmp_path / "list.parquet"), 0, 3),))
    stats = build_shard(plan, config(tmp_path), lambda progress: told.append(progress.rows))
    assert told == [1, 2, 3]
    assert stats.status_counts == {"http_404": 1, "success": 1, "url_empty": 1}
