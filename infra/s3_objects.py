"""Objects of an S3 bucket as the files of a Storage: reads by range, atomic writes, conditional ones."""

import contextlib
import hashlib
import io
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

from infra.files import FileEntry
from infra.s3_client import CONDITION_FAILED, MISSING, error_code, explained, explanation, s3_client

PART_BYTES = 32 << 20  # a shard of 10,000 pictures has about 250 MB
PARTS_AT_ONCE = 2
WRITER = "writer"  # the metadata that tells whose write an object is
CHECK_PREFIX = ".check-"  # objects that only try what the storage can do
UNKNOWN = "NotImplemented"  # the server knows no conditions
CONFLICT = "ConditionalRequestConflict"  # two conditional writes met; neither was done
CONDITION_TRIES = 5
READ_TRIES = 5
DELETE_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload under way, or left behind."""

    path: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class S3Objects:
    """The objects below `s3://bucket/prefix`. Raises FileNotFoundError, OutputError and StorageFailed."""

    url: str
    is_hasty: bool = False

    def _client(self) -> Any:
        return s3_client(is_hasty=self.is_hasty)

    def _key(self, path: str) -> dict[str, str]:
        # Not by the rules of the web's addresses: # and ? are characters of a key as all others.
        bucket, _, rest = self.url.removeprefix("s3://").partition("/")
        prefix = rest.strip("/")
        return {"Bucket": bucket, "Key": f"{prefix}/{path}".strip("/") if prefix else path}

    def info(self, path: str) -> FileEntry | None:
        """The object's size and version; None when there is none."""
        found = self._head(path)
        return None if found is None else FileEntry(path, int(found["ContentLength"]), str(found["ETag"]))

    def age_s(self, path: str) -> float | None:
        """Seconds since the object was written, by the storage's own clock (to a second); None when there is none."""
        from email.utils import parsedate_to_datetime

        found = self._head(path)
        if found is None:
            return None
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max(0.0, float((now - found["LastModified"]).total_seconds()))

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
            pages = self._client().get_paginator("list_objects_v2")
            options = {} if recursive else {"Delimiter": "/"}
            for page in pages.paginate(Bucket=place["Bucket"], Prefix=f"{start}/" if start else "", **options):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):
                        yield FileEntry(item["Key"].removeprefix(root), int(item["Size"]), str(item["ETag"]))

    def list_folders(self) -> list[str]:
        """The names directly below the root that have objects below them, sorted."""
        place = self._key("")
        root = f"{place['Key'].strip('/')}/" if place["Key"].strip("/") else ""
        with explained(self.url):
            pages = (
                s3_client()
                .get_paginator("list_objects_v2")
                .paginate(Bucket=place["Bucket"], Prefix=root, Delimiter="/")
            )
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(prefix.removeprefix(root).strip("/") for prefix in found)

    def write_bytes(self, path: str, data: bytes) -> str:
        """Writes the whole object; returns its version."""
        with explained(f"{self.url}/{path}"):
            return str(self._client().put_object(**self._key(path), Body=data)["ETag"])

    def write_file(self, path: str, source: IO[bytes]) -> str:
        """Writes the whole object from a file, in parts when it is large; returns the version that this write made."""
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if size <= PART_BYTES:
            return self.write_bytes(path, source.read())
        with explained(f"{self.url}/{path}"):
            place = self._key(path)
            upload = self._client().create_multipart_upload(**place)["UploadId"]
            try:
                return self._complete(path, upload, self._upload_parts(place, upload, source, -(-size // PART_BYTES)))
            except BaseException:
                with contextlib.suppress(Exception):  # the error that led here is the one to tell
                    self._client().abort_multipart_upload(**place, UploadId=upload)
                raise

    def _complete(self, path: str, upload: str, parts: list[dict[str, Any]]) -> str:
        from botocore.exceptions import ClientError

        try:
            whole = {"Parts": parts}
            done = self._client().complete_multipart_upload(**self._key(path), UploadId=upload, MultipartUpload=whole)
            return str(done["ETag"])
        except ClientError as error:
            # Done, its answer lost, and tried again by boto3: then the upload is not there any more, but the object is.
            info = self.info(path) if error_code(error) == "NoSuchUpload" else None
            if info is None or info.version != _multipart_version(parts):
                raise
            return info.version

    def _upload_parts(self, place: dict[str, str], upload: str, source: IO[bytes], count: int) -> list[dict[str, Any]]:
        lock = threading.Lock()

        def put(number: int) -> dict[str, Any]:
            with lock:
                source.seek((number - 1) * PART_BYTES)
                data = source.read(PART_BYTES)
            part = self._client().upload_part(**place, UploadId=upload, PartNumber=number, Body=data)
            return {"PartNumber": number, "ETag": part["ETag"]}

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            return list(pool.map(put, range(1, count + 1)))

    def create(self, path: str, data: bytes) -> str | None:
        """Writes the object unless there is one (`If-None-Match: *`); returns its version if it is now this writer's.

        Servers that do not know conditions write it in any case: see `infra.conditions`.
        """
        return self._write_if(path, data, {"IfNoneMatch": "*"})

    def replace(self, path: str, data: bytes, version: str) -> str | None:
        """Writes the object if it still has this version (`If-Match`); returns the new one if it is this writer's."""
        return self._write_if(path, data, {"IfMatch": version})

    def delete(self, paths: list[str]) -> None:
        """Removes the objects; missing ones are fine."""
        bucket = self._key("")["Bucket"]
        with explained(self.url):
            if len(paths) == 1:  # which every server knows
                self._client().delete_object(**self._key(paths[0]))
                return
            for start in range(0, len(paths), DELETE_AT_ONCE):
                keys = [{"Key": self._key(path)["Key"]} for path in paths[start : start + DELETE_AT_ONCE]]
                done = self._client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                for refused in done.get("Errors", ()):
                    raise explanation(self.url, str(refused.get("Code", "")))

    def sweep(self) -> int:
        """Removes what processes that were killed have left: open multipart uploads, and checks of the storage."""
        checks = [entry.path for entry in self.list_files("", recursive=False) if entry.path.startswith(CHECK_PREFIX)]
        if checks:
            self.delete(checks)
        uploads = self.open_uploads()
        for upload in uploads:
            self.abort_upload(upload.path, upload.upload_id)
        return len(checks) + len(uploads)

    def open_uploads(self) -> list[OpenUpload]:
        """The multipart uploads that were neither completed nor aborted."""
        place = self._key("")
        root = f"{place['Key'].strip('/')}/" if place["Key"].strip("/") else ""
        with explained(self.url):
            pages = self._client().get_paginator("list_multipart_uploads").paginate(Bucket=place["Bucket"], Prefix=root)
            return [
                OpenUpload(upload["Key"].removeprefix(root), upload["UploadId"])
                for page in pages
                for upload in page.get("Uploads", [])
            ]

    def abort_upload(self, path: str, upload_id: str) -> None:
        """Ends an open upload, and frees what it holds."""
        with explained(f"{self.url}/{path}"):
            self._client().abort_multipart_upload(**self._key(path), UploadId=upload_id)

    def _head(self, path: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with explained(f"{self.url}/{path}"):
            try:
                return dict(self._client().head_object(**self._key(path)))
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
                    return bytes(self._client().get_object(**self._key(path), **options)["Body"].read())
                except (IncompleteReadError, ResponseStreamingError, HTTPClientError, HTTPError):
                    # boto3 tries requests again, but not bodies that are cut.
                    if attempt == READ_TRIES - 1:
                        raise
        raise AssertionError

    def _write_if(self, path: str, data: bytes, condition: dict[str, str]) -> str | None:
        from botocore.exceptions import ClientError

        token = secrets.token_hex(16)
        with explained(f"{self.url}/{path}"):
            for _ in range(CONDITION_TRIES):
                try:
                    place = self._key(path)
                    done = self._client().put_object(**place, Body=data, Metadata={WRITER: token}, **condition)
                    return str(done["ETag"])
                except ClientError as error:
                    if error_code(error) in CONDITION_FAILED | MISSING:
                        # The write may be our own: done, its answer lost, and tried again by boto3.
                        head = self._head(path)
                        is_own = head is not None and head.get("Metadata", {}).get(WRITER) == token
                        return str(head["ETag"]) if head is not None and is_own else None
                    if error_code(error) == UNKNOWN:
                        return self.write_bytes(path, data)
                    if error_code(error) != CONFLICT:
                        raise
        return None


def _multipart_version(parts: list[dict[str, Any]]) -> str:
    """The ETag of an object of these parts: the MD5 of theirs, and their number."""
    digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


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
