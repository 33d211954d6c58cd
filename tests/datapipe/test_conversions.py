"""The conversion of a list that is not Parquet ends with words for the user where a disk is full."""

import secrets
import tempfile
from pathlib import Path

import pytest
from object_store import ObjectStore

from datapipe.config import BuildConfig
from datapipe.conversions import as_parquet
from datapipe.input_files import ListFile
from infra.errors import OutputError


@pytest.fixture
def large_list(tmp_path: Path) -> ListFile:
    """A list that no disk of 8 MB takes."""
    place = tmp_path / "list.csv"
    place.write_text("url\n" + "".join(f"{secrets.token_hex(1000)}\n" for _ in range(6000)))
    return ListFile.at(str(place))


def test_a_full_disk_below_the_output_is_told(large_list: ListFile, small_disk: Path):
    config = BuildConfig(input=large_list.url, output=str(small_disk / "out"))
    with pytest.raises(OutputError, match="disk is full"):
        as_parquet(large_list, config)
    assert list((small_disk / "out" / "_input").iterdir()) == []


def test_a_full_scratch_disk_is_told(
    large_list: ListFile, small_disk: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    config = BuildConfig(input=large_list.url, output=store.url("out"))
    with pytest.raises(OutputError, match=r"disk is full: writing .*/diptych-\d+-list-"):
        as_parquet(large_list, config)
    assert list(small_disk.iterdir()) == []


def test_a_disk_without_any_room_is_told(
    large_list: ListFile, small_disk: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with (small_disk / "all").open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(b"\0" * (64 << 10))
    with pytest.raises(OutputError, match="disk is full"):
        as_parquet(large_list, BuildConfig(input=large_list.url, output=store.url("out")))
    assert [entry.name for entry in small_disk.iterdir()] == ["all"]
