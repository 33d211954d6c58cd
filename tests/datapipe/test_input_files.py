"""A list's files are found wherever it lies."""

from uuid import uuid4

import pytest
from object_store import ObjectStore

from datapipe.input_files import find_input_files
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
