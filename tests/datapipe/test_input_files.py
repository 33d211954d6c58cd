"""A list's files are found wherever it lies."""

from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_store import ObjectStore

from datapipe.input_files import files_there, find_input_files, would_find
from infra.errors import InputError
from infra.storage import Storage


def test_a_list_may_lie_at_the_root_of_a_bucket(store: ObjectStore):
    bucket, name = Storage(f"s3://{store.bucket}"), f"{uuid4().hex}.csv"
    bucket.write_bytes(name, b"url,caption\nu,c\n")
    bucket.write_bytes(f"{name}.part/more.csv", b"url,caption\nu,c\n")
    try:
        for pattern in (bucket.url, f"{bucket.url}/", f"{bucket.url}/*.csv", f"{bucket.url}/{name}"):
            assert f"{bucket.url}/{name}" in [file.url for file in find_input_files(pattern)]
        (file,) = find_input_files(f"{bucket.url}/{name}.part/")
        assert file.name == "more.csv"
    finally:
        bucket.delete(name)
        bucket.delete(f"{name}.part/more.csv")


def test_a_bucket_cannot_be_a_pattern():
    with pytest.raises(InputError, match="names no file"):
        find_input_files("s3://lists-*/a.csv")


NAMES = st.sampled_from(["a", "b", "ab", "a.csv", "b.csv", "ab.csv", "a.parquet"])
SIGNS = st.sampled_from(["*", "**", "a*", "?", "*.csv", "?.csv", "[ab].csv", "a", "b.csv"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=1, max_size=3), st.lists(SIGNS, min_size=1, max_size=3))
def test_what_would_be_found_is_found_when_it_is_there(tmp_path: Path, parts: list[str], signs: list[str]):
    root = Path(tmp_path, "-".join(parts))
    place, pattern = root.joinpath(*parts), str(root.joinpath(*signs))
    root.mkdir(exist_ok=True)
    if Path(pattern).is_dir():
        return
    foreseen = would_find(pattern, str(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    assert foreseen == (str(place) in [file.url for file in files_there(pattern)])


@pytest.mark.parametrize(
    ("pattern", "place", "found"),
    [
        ("s3://b/lists", "s3://b/lists/00000.parquet", True),
        ("s3://b/lists/", "s3://b/lists/00000.parquet", True),
        ("s3://b", "s3://b/00000.parquet", True),
        ("s3://b/lists", "s3://b/lists/out/00000.parquet", False),
        ("s3://b/lists", "s3://b/lists/00000.tar", False),
        ("s3://b/lists/*.parquet", "s3://b/lists/00000.parquet", True),
        ("s3://b/lists/*.parquet", "s3://b/lists/out/00000.parquet", False),
        ("s3://b/*/*.parquet", "s3://b/lists/out/00000.parquet", True),
        ("s3://b/list.parquet", "s3://b/00000.parquet", False),
        ("s3://b/00000.parquet", "s3://b/00000.parquet", True),
        ("s3://b/lists/*.parquet", "/lists/00000.parquet", False),
        ("/lists", "s3://b/lists/00000.parquet", False),
    ],
)
def test_the_same_of_addresses(pattern: str, place: str, found: bool):
    assert would_find(pattern, place) is found
