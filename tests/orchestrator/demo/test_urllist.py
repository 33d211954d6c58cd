"""The URL list holds every picture once, in a fixed order, among as many faults as it says."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datapipe.status import SampleStatus
from orchestrator.demo.faults import EXPECTED_STATUS, Fault
from orchestrator.demo.pictures import Picture, PictureSet
from orchestrator.demo.split import Split
from orchestrator.demo.urllist import write_url_list

BASE_URL = "http://127.0.0.1:40001"


@pytest.fixture
def pictures(tmp_path: Path) -> PictureSet:
    def picture(index: int) -> Picture:
        split = Split.HELD_OUT if index % 10 == 0 else Split.TRAIN
        return Picture(f"{index:x}_0.{('jpg', 'png')[index % 2]}", f"caption {index}", "😀", "grinning", "face", split)

    return PictureSet(tmp_path / "pictures", tuple(picture(index) for index in range(2000)))


def rows_of(path: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = pq.read_table(path).to_pylist()
    return rows


def is_good(row: dict[str, str]) -> bool:
    return any(row["url"].startswith(f"{BASE_URL}/{kind}/") for kind in ("pictures", Fault.SLOW, Fault.REDIRECT))


def test_every_picture_can_be_had_from_exactly_one_row(pictures: PictureSet, tmp_path: Path):
    listed = write_url_list(tmp_path / "urls.parquet", pictures, BASE_URL, seed=0)
    good = [row["url"].rpartition("/")[2] for row in rows_of(listed.path) if is_good(row)]
    assert Counter(good) == Counter(picture.file for picture in pictures.pictures)
    assert listed.good_rows == len(pictures.pictures)


def test_the_faults_are_as_many_as_it_says_and_about_three_in_a_hundred(pictures: PictureSet, tmp_path: Path):
    listed = write_url_list(tmp_path / "urls.parquet", pictures, BASE_URL, seed=0)
    rows = rows_of(listed.path)
    kinds = Counter(row["url"].removeprefix(BASE_URL + "/").partition("/")[0] for row in rows)
    for fault in set(Fault) - {Fault.UNKNOWN_HOST, Fault.MALFORMED}:
        assert kinds[fault] == listed.faults[fault] >= 1
    assert sum("does-not-exist.invalid" in row["url"] for row in rows) == listed.faults[Fault.UNKNOWN_HOST]
    assert 0.02 < sum(listed.faults.values()) / listed.rows < 0.05
    assert sum(listed.expected_counts().values()) == listed.rows == len(rows)
    assert listed.expected_counts()[SampleStatus.SUCCESS] == listed.good_rows


def test_held_out_pictures_never_misbehave(pictures: PictureSet, tmp_path: Path):
    listed = write_url_list(tmp_path / "urls.parquet", pictures, BASE_URL, seed=0)
    held_out = [row["url"] for row in rows_of(listed.path) if row["split"] == Split.HELD_OUT]
    assert len(held_out) == len(pictures.of(Split.HELD_OUT))
    assert all(url.startswith(f"{BASE_URL}/pictures/") for url in held_out)


def test_truncated_files_are_jpegs(pictures: PictureSet, tmp_path: Path):
    listed = write_url_list(tmp_path / "urls.parquet", pictures, BASE_URL, seed=0)
    truncated = [row["url"] for row in rows_of(listed.path) if f"/{Fault.TRUNCATED}/" in row["url"]]
    assert truncated and all(url.endswith(".jpg") for url in truncated)


def test_the_same_seed_writes_the_same_bytes(pictures: PictureSet, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_url_list(tmp_path / name, pictures, BASE_URL, seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_each_fault_has_a_status_to_expect():
    assert set(EXPECTED_STATUS) == set(Fault)
