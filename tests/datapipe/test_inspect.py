"""Inspecting a dataset: finished and not, ours and foreign, small and hostile."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_datasets import make_dataset

from datapipe.inspect import inspect, inspect_rows
from datapipe.survey import NO_HOST, host_of
from infra.errors import CorruptData, InputError


def write_shard_files(folder: Path, shard: int, table: pa.Table) -> None:
    """A shard as an unfinished build has it: table and marker, no manifest."""
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"{shard:05d}.parquet", row_group_size=1000)
    statuses = table["status"].to_pylist()
    marker = {"count": len(statuses), "status_dict": {status: statuses.count(status) for status in set(statuses)}}
    (folder / f"{shard:05d}_stats.json").write_text(json.dumps(marker))


def rows(*urls_and_statuses: tuple[str | None, str], **columns: list) -> pa.Table:
    urls, statuses = zip(*urls_and_statuses, strict=True)
    return pa.table({"url": pa.array(urls, pa.string()), "status": list(statuses), **columns})


def test_a_finished_dataset_is_summed_up_and_its_rows_agree(tmp_path: Path):
    url = make_dataset(tmp_path / "data", shards=2, rows=50)
    summary, survey = inspect(url), inspect_rows(url, hosts=5)
    assert summary.is_finished and (summary.shards, summary.rows, summary.samples) == (2, 100, 90)
    assert survey.rows == 100 and survey.hosts_counted == 1 and survey.host_rows_missed_at_most == 0
    (host,) = survey.hosts
    assert (host.host, host.rows, host.samples, host.failure, host.failure_rows) == (
        "example.org",
        100,
        90,
        "http_404",
        10,
    )
    assert {name: d.total for name, d in survey.distributions.items()} == dict.fromkeys(
        (
            "original_width",
            "original_height",
            "original_aspect_ratio",
            "width",
            "height",
            "image_bytes",
            "caption_characters",
        ),
        90,
    )
    assert survey.distributions["original_aspect_ratio"].quantile(0.5) == 1.0


def test_an_unfinished_dataset_tells_of_the_shards_that_are_in(tmp_path: Path):
    url = make_dataset(tmp_path / "data", shards=3, rows=20)
    (tmp_path / "data" / "dataset.json").unlink()
    (tmp_path / "data" / "00001_stats.json").unlink()  # being made again
    (tmp_path / "data" / "00002_stats.json").write_text("[]")  # torn by another tool
    summary = inspect(url)
    assert not summary.is_finished and (summary.shards, summary.rows, summary.samples) == (1, 20, 18)
    assert summary.bad_markers == ("00002_stats.json",)
    sizes = [(tmp_path / "data" / name).stat().st_size for name in ("00000.tar", "00000.parquet")]
    assert summary.total_bytes == sum(sizes)
    assert inspect_rows(url, hosts=1).rows == 20


def test_hosts_come_by_rows_with_their_yield_and_worst_reason(tmp_path: Path):
    table = rows(
        ("http://A.example/1.jpg", "success"),
        ("https://user:secret@a.example:8443/2.jpg?x#y", "http_404"),
        ("http://a.example?q", "http_404"),
        ("http://a.example./3", "timeout"),
        ("http://b.example/1", "success"),
        (" http://b.example/2", "success"),
        ("http://[::1", "url_malformed"),
        ("no url at all", "url_malformed"),
        (None, "url_empty"),
    )
    write_shard_files(tmp_path / "data", 0, table)
    write_shard_files(tmp_path / "data", 1, table)
    survey = inspect_rows(str(tmp_path / "data"), hosts=10)
    assert [(h.host, h.rows, h.samples, h.failure, h.failure_rows) for h in survey.hosts] == [
        ("a.example", 8, 2, "http_404", 4),
        (NO_HOST, 6, 0, "url_malformed", 4),
        ("b.example", 4, 4, None, 0),
    ]
    assert [host.host for host in inspect_rows(str(tmp_path / "data"), hosts=1).hosts] == ["a.example"]


def test_img2datasets_tables_and_markers_are_read_too(tmp_path: Path):
    table = rows(
        ("http://a.example/1", "success"),
        ("http://a.example/2", "failed_to_download"),
        original_width=[500, None],
        original_height=[250, None],
        jpg=[b"picture", None],
    )
    write_shard_files(tmp_path / "data", 0, table)
    reason = "<urlopen error [Errno -2] Name or service not known>"
    (tmp_path / "data" / "00000_stats.json").write_text(
        json.dumps({"count": 2, "successes": 1, "status_dict": {"success": 1, reason: 1}})
    )
    assert inspect(str(tmp_path / "data")).status_counts == {"success": 1, reason: 1}
    survey = inspect_rows(str(tmp_path / "data"), hosts=10)
    assert survey.hosts[0].failure == "failed_to_download"
    assert survey.distributions["original_aspect_ratio"].values == (2.0,)


def test_odd_columns_are_left_out_or_read_as_what_they_are(tmp_path: Path):
    table = rows(
        ("http://a.example/1", "success"),
        ("http://a.example/2", "success"),
        caption=pa.nulls(2),
        original_width=pa.array([0, 30], pa.int64()),
        original_height=pa.array([0, 10], pa.int64()),
        image_length=pa.array([None, 7], pa.int64()),
    )
    write_shard_files(tmp_path / "data", 0, table)
    found = inspect_rows(str(tmp_path / "data"), hosts=1).distributions
    assert {name: (d.values, d.counts) for name, d in found.items()} == {
        "original_width": ((30,), (1,)),
        "original_height": ((10,), (1,)),
        "original_aspect_ratio": ((3,), (1,)),
        "image_bytes": ((7,), (1,)),
    }


def test_bytes_that_are_no_text_are_counted_all_the_same(tmp_path: Path):
    broken = pa.array([b"http://\xff\xfe.example/1", b"\xff"]).view(pa.string())
    table = pa.table({"url": broken, "status": ["success", "url_malformed"], "caption": broken})
    write_shard_files(tmp_path / "data", 0, table)
    survey = inspect_rows(str(tmp_path / "data"), hosts=5)
    assert sum(host.rows for host in survey.hosts) == survey.rows == 2


def test_statuses_without_end_are_kept_bounded(tmp_path: Path):
    table = rows(*((f"http://a.example/{n}", f"reason {n}") for n in range(1000)))
    write_shard_files(tmp_path / "data", 0, table)
    (host,) = inspect_rows(str(tmp_path / "data"), hosts=1).hosts
    assert (host.failure, host.failure_rows) == ("other", 800)


def test_every_shard_is_reported_as_it_is_begun(tmp_path: Path):
    url, seen = make_dataset(tmp_path / "data", shards=3, rows=10), []
    inspect_rows(url, hosts=1, on_shard=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_a_damaged_table_is_named(tmp_path: Path):
    url = make_dataset(tmp_path / "data", shards=2, rows=10)
    (tmp_path / "data" / "00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(CorruptData, match=r"00001\.parquet cannot be read"):
        inspect_rows(url, hosts=1)


@pytest.mark.parametrize(
    "columns",
    [
        {"url": pa.array([["a"]]), "status": ["success"]},
        {"url": ["http://a.example/"], "status": ["success"], "width": ["wide"]},
    ],
)
def test_a_column_that_cannot_be_what_it_is_called_is_an_error_for_the_user(tmp_path: Path, columns: dict):
    write_shard_files(tmp_path / "data", 0, pa.table(columns))
    with pytest.raises(CorruptData, match=r"00000\.parquet cannot be read"):
        inspect_rows(str(tmp_path / "data"), hosts=1)


def test_two_columns_of_one_name_are_an_error_for_the_user(tmp_path: Path):
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["success"]), pa.array(["b"])], ["url", "status", "url"])
    write_shard_files(tmp_path / "data", 0, twice)
    with pytest.raises(CorruptData, match=r"00000\.parquet cannot be read"):
        inspect_rows(str(tmp_path / "data"), hosts=1)


def test_text_of_any_encoding_of_arrow_is_read(tmp_path: Path):
    table = pa.table(
        {
            "url": pa.array(["http://a.example/"] * 2).dictionary_encode(),
            "status": pa.array(["success", "timeout"], pa.large_string()),
            "caption": pa.array([3, 4]),
        }
    )
    write_shard_files(tmp_path / "data", 0, table)
    (host,) = inspect_rows(str(tmp_path / "data"), hosts=1).hosts
    assert (host.host, host.rows, host.samples) == ("a.example", 2, 1)


@pytest.mark.parametrize("read", [inspect, lambda url: inspect_rows(url, hosts=1)])
def test_a_folder_with_no_shard_is_no_dataset(tmp_path: Path, read):
    with pytest.raises(InputError, match="no finished dataset"):
        read(str(tmp_path))


def test_an_unusual_dataset_comes_with_advice(tmp_path: Path):
    table = rows(*(("http://10.0.0.1/", "address_refused") for _ in range(300)))
    write_shard_files(tmp_path / "data", 0, table)
    (advice,) = inspect(str(tmp_path / "data")).advice
    assert advice.reason == "address_refused" and "allow_private_addresses" in advice.text


@given(st.text(st.characters(exclude_categories=())) | st.from_regex(r"https?://[^/]*:?[^/]*@?\[?.*"))
def test_any_text_has_a_host_or_none(url: str):
    host = host_of(url)
    assert host == NO_HOST or 0 < len(host) <= 253


def test_memory_does_not_grow_with_the_rows(tmp_path: Path):
    def peak_bytes(shards: int) -> int:
        for shard in range(shards):
            urls = [(f"http://h{n % 50}.example/{n}.jpg", "success") for n in range(5000)]
            captions = [f"{n} {'x' * 500}" for n in range(5000)]
            write_shard_files(tmp_path / str(shards), shard, rows(*urls, caption=captions))
        usual, counting = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(counting)
        try:
            survey = inspect_rows(str(tmp_path / str(shards)), hosts=100)
        finally:
            pa.set_memory_pool(usual)
        assert (survey.rows, survey.hosts_counted) == (shards * 5000, 50)
        return counting.max_memory()

    assert peak_bytes(6) < 1.3 * peak_bytes(1)
