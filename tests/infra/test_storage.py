"""Storage on local disk: whole files or none."""

import errno
import os
from pathlib import Path

import pytest

from infra.errors import InputError, OutputError
from infra.storage import Storage, sha256_in, sha256_of_file, storage_of


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return storage_of(tmp_path / "root")


def test_what_is_written_is_read_back_and_listed(storage: Storage):
    storage.write_bytes("a/b.bin", b"0123456789")
    assert storage.read_bytes("a/b.bin") == b"0123456789"
    assert storage.read_range("a/b.bin", 3, 4) == b"3456"
    assert storage.size_bytes("a/b.bin") == 10
    assert [(entry.path, entry.size_bytes) for entry in storage.list_files("a")] == [("a/b.bin", 10)]
    assert storage.at("a").read_bytes("b.bin") == b"0123456789"


def test_a_missing_file_is_told_apart_from_an_empty_one(storage: Storage):
    storage.write_bytes("empty", b"")
    assert storage.size_bytes("empty") == 0
    assert storage.size_bytes("missing") is None and not storage.exists("missing")
    assert storage.list_files("no/such/folder") == []
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("missing")


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(storage: Storage):
    storage.write_bytes("file", b"old")
    with pytest.raises(RuntimeError), storage.local_writer("file") as temporary:
        temporary.write_bytes(b"half of the n")
        raise RuntimeError("the process fails here")
    assert storage.read_bytes("file") == b"old"
    assert os.listdir(storage.local_path()) == ["file"]


def test_unfinished_files_of_killed_writers_are_not_listed_and_swept(storage: Storage):
    storage.write_bytes("good", b"1")
    storage.local_path(".other.0a1b2c3d.partial").write_bytes(b"torn")
    assert [entry.path for entry in storage.list_files()] == ["good"]
    assert storage.sweep_unfinished() == 1
    assert os.listdir(storage.local_path()) == ["good"]


def test_a_full_disk_is_an_error_for_the_user(storage: Storage):
    with pytest.raises(OutputError, match="disk is full"), storage.local_writer("file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert storage.list_files() == []


def test_a_place_that_cannot_be_written_is_an_error_for_the_user(tmp_path: Path):
    (tmp_path / "a-file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        storage_of(tmp_path / "a-file" / "below").require_writable()


@pytest.mark.parametrize(
    "address",
    [
        *(
            "s3://AKIA1:planted@bucket/x",
            "s3://AKIA1:pl/ant+planted@bucket/x",
            "S3://planted@bucket",
            "gs://a:planted@b/c",
        ),
        *("s3://bucket/x?X-Amz-Signature=planted", "s3://AKIA1%3Aplanted%40bucket/x", "https://me:planted@host/x"),
    ],
)
def test_an_address_with_a_login_is_refused_without_showing_it(address: str):
    with pytest.raises(InputError, match="holds a password, a key or a signature") as caught:
        storage_of(address)
    assert "planted" not in str(caught.value) and "AWS_SECRET_ACCESS_KEY" in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a@b:c", "s3://bucket/12:30@night", "abfs://container@account.example/x", "hdfs://me@host/x"],
)
def test_an_address_without_a_secret_is_taken(address: str):
    assert storage_of(address).url == address


def test_hashes_of_files_and_of_storage_agree(storage: Storage):
    storage.write_bytes("file", b"x" * 3_000_000)
    assert sha256_in(storage, "file") == sha256_of_file(storage.local_path("file"))
