"""Objects of an S3 bucket as the files of a Storage: reads by range, atomic writes, conditional ones."""

import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

from infra.files import FileEntry
from infra.s3_client import CONDITION_FAILED, MISSING, error_code, explained, s3_client

PART_BYTES = 32 << 20  # a shard of 10,000 pictures has about 250 MB
WRITER = "writer"  # the metadata that tells whose write an object is
CHECK_PREFIX = ".check-"  # objects that only try what the storage can do
UNKNOWN = "NotImplemented"  # the server knows no conditions
CONFLICT = "ConditionalRequestConflict"  # two conditional writes met; neither was done
CONDITION_TRIES = 5
READ_TRIES = 5
DELETE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class S3Objects:
    """The objects below `s3://bucket/prefix`. Raises FileNotFoundError, OutputError and StorageFailed."""

    url: str

    def _key(self, path: str) -> dict[str, str]:
        parts = urlsplit(self.url)
        prefix = parts.path.strip("/")
        return {"Bucket": parts.netloc, "Key": f"{prefix}/{path}".strip("/") if prefix else path}

    def info(self, path: str) -> FileEntry | None:
        """The object's size and version; None when there is none."""
        found = self._head(path)
        return None if found is None else FileEntry(path, int(found["ContentLength"]), str(found["ETag"]))

    def open_input(self, path: str) -> BinaryIO:
        """A seekable file over range requests."""
        info = self.info(path)
        if info is None:
            raise FileNotFoundError(f"{self.url}/{path}")
        return _RangeReader(self, path, info.size_bytes)  # type: ignore[return-value]

    def read_bytes(self, path: str) -> bytes:
        """The whole object."""
        return self._get(path, {})

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        return self._get(path, {"Range": f"bytes={offset}-{offset + length - 1}"}) if length else b""

    def list_files(self, folder: str, *, recursive: bool) -> Iterator[FileEntry]:
        """The objects below `folder`."""
        place = self._key("")
        start = "/".join(part for part in (place["Key"].strip("/"), folder.strip("/")) if part)
        root = f"{place['Key'].strip('/')}/" if place["Key"].strip("/") else ""
        with explained(self.url):
            pages = s3_client().get_paginator("list_objects_v2")
            options = {} if recursive else {"Delimiter": "/"}
            for page in pages.paginate(Bucket=place["Bucket"], Prefix=f"{start}/" if start else "", **options):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield FileEntry(item["Key"].removeprefix(root), int(item["Size"]), str(item["ETag"]))

    def write_bytes(self, path: str, data: bytes) -> str:
        """Writes the whole object; returns its version."""
        with explained(f"{self.url}/{path}"):
            return str(s3_client().put_object(**self._key(path), Body=data)["ETag"])

    def write_file(self, path: str, source: IO[bytes]) -> str:
        """Writes the whole object from a file, in parts when it is large; returns its version."""
        from boto3.s3.transfer import TransferConfig

        with explained(f"{self.url}/{path}"):
            transfer = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
            place = self._key(path)
            source.seek(0)
            s3_client().upload_fileobj(_Unclosed(source), place["Bucket"], place["Key"], Config=transfer)
        info = self.info(path)
        if info is None or info.version is None:
            raise FileNotFoundError(f"{self.url}/{path}")
        return info.version

    def create(self, path: str, data: bytes) -> bool:
        """Writes the object unless there is one (`If-None-Match: *`); says whether it is now this writer's.

        Servers that do not know conditions write it in any case: see `infra.conditions`.
        """
        return self._write_if(path, data, {"IfNoneMatch": "*"})

    def replace(self, path: str, data: bytes, version: str) -> bool:
        """Writes the object if it still has this version (`If-Match`); says whether it is now this writer's."""
        return self._write_if(path, data, {"IfMatch": version})

    def delete(self, paths: list[str]) -> None:
        """Removes the objects; missing ones are fine."""
        bucket = self._key("")["Bucket"]
        with explained(self.url):
            if len(paths) == 1:  # which every server knows
                s3_client().delete_object(**self._key(paths[0]))
                return
            for start in range(0, len(paths), DELETE_AT_ONCE):
                keys = [{"Key": self._key(path)["Key"]} for path in paths[start : start + DELETE_AT_ONCE]]
                s3_client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})

    def sweep(self) -> int:
        """Removes what processes that were killed have left: open multipart uploads, and checks of the storage."""
        checks = [entry.path for entry in self.list_files("", recursive=False) if entry.path.startswith(CHECK_PREFIX)]
        if checks:
            self.delete(checks)
        return len(checks) + self._abort_uploads()

    def _abort_uploads(self) -> int:
        place = self._key("")
        prefix, ended = place["Key"].strip("/"), 0
        with explained(self.url):
            options = {"Bucket": place["Bucket"], "Prefix": f"{prefix}/" if prefix else ""}
            for page in s3_client().get_paginator("list_multipart_uploads").paginate(**options):
                for upload in page.get("Uploads", []):
                    which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    s3_client().abort_multipart_upload(Bucket=place["Bucket"], **which)
                    ended += 1
        return ended

    def _head(self, path: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with explained(f"{self.url}/{path}"):
            try:
                return dict(s3_client().head_object(**self._key(path)))
            except ClientError as error:
                if error_code(error) in MISSING:
                    return None
                raise

    def _get(self, path: str, options: dict[str, str]) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError
        from urllib3.exceptions import HTTPError

        with explained(f"{self.url}/{path}"):
            for attempt in range(READ_TRIES):
                try:
                    return bytes(s3_client().get_object(**self._key(path), **options)["Body"].read())
                except (IncompleteReadError, ResponseStreamingError, HTTPClientError, HTTPError):
                    # boto3 tries requests again, but not bodies that are cut.
                    if attempt == READ_TRIES - 1:
                        raise
        raise AssertionError

    def _write_if(self, path: str, data: bytes, condition: dict[str, str]) -> bool:
        from botocore.exceptions import ClientError

        token = secrets.token_hex(16)
        with explained(f"{self.url}/{path}"):
            for _ in range(CONDITION_TRIES):
                try:
                    s3_client().put_object(**self._key(path), Body=data, Metadata={WRITER: token}, **condition)
                    return True
                except ClientError as error:
                    if error_code(error) in CONDITION_FAILED | MISSING:
                        # The write may be our own: done, its answer lost, and tried again by boto3.
                        head = self._head(path)
                        return head is not None and head.get("Metadata", {}).get(WRITER) == token
                    if error_code(error) == UNKNOWN:
                        self.write_bytes(path, data)
                        return True
                    if error_code(error) != CONFLICT:
                        raise
        return False


class _Unclosed:
    """A file that outlives its upload: boto3 would close it."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source

    def read(self, size: int = -1) -> bytes:
        return self._source.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def close(self) -> None:
        pass


class _RangeReader(io.RawIOBase):
    """A seekable file over range requests; each `readinto` is one."""

    def __init__(self, objects: S3Objects, path: str, size_bytes: int) -> None:
        self._objects, self._path, self._size, self._place = objects, path, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._objects.read_range(self._path, self._place, max(0, min(len(buffer), self._size - self._place)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
