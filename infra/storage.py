"""Reads and writes whole files under one root: on local disk, in S3, or wherever pyarrow.fs reaches."""

import hashlib
import io
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from infra.errors import InputError, OutputError
from infra.files import FileEntry
from infra.local_files import TEMPORARY_SUFFIX, LocalWriter, create_local, reading, writing
from infra.s3_objects import CHECK_PREFIX, S3Objects
from infra.secret_values import is_secret_value
from infra.settings import absolute_place

HASH_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Storage:
    """Files under one root. Cheap to make and to pickle: it is its URL.

    `url` is a local path, `s3://bucket/prefix`, or another address that pyarrow.fs knows (`gs://…`, `hdfs://…`).
    Every write is atomic: a reader sees the whole file or none. Paths are relative to the root, with `/`.
    """

    url: str
    is_hasty: bool = False

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's file system."""
        return "://" not in self.url

    @property
    def s3(self) -> S3Objects | None:
        """The storage as objects of S3, with conditional writes; None for others."""
        return S3Objects(self.url, is_hasty=self.is_hasty) if self.url.startswith("s3://") else None

    def hasty(self) -> "Storage":
        """The same files, with requests to S3 that give up after seconds: for a caller that tries again itself."""
        return replace(self, is_hasty=True)

    def at(self, path: str) -> "Storage":
        """The storage whose root is `path` below this one's."""
        return replace(self, url=f"{self.url.rstrip('/')}/{path}")

    def local_path(self, path: str = "") -> Path:
        """The file as a path of this machine; only for local storage."""
        if not self.is_local:
            raise OutputError(
                f"{self.url} is not a folder of this machine",
                "This operation wants local storage.",
                "Give a local folder.",
            )
        return Path(self.url) / path

    def read_bytes(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError when there is none."""
        if self.is_local:
            with reading(self.local_path(path)):
                return self.local_path(path).read_bytes()
        if self.s3 is not None:
            return self.s3.read_bytes(path)
        with self.open_input(path) as stream:
            return bytes(stream.read())

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only at the end of the file."""
        if self.s3 is not None:
            return self.s3.read_range(path, offset, length)
        with self.open_input(path) as stream:
            return bytes(stream.read_at(length, offset))

    def open_input(self, path: str) -> pa.NativeFile:
        """Opens the file for random reads. Raises FileNotFoundError when there is none."""
        if self.s3 is not None:
            return pa.PythonFile(self.s3.open_input(path), mode="r")
        filesystem, root = _filesystem(self.url)
        with reading(_join(root, path)):
            return filesystem.open_input_file(_join(root, path))

    def open_stream(self, path: str) -> BinaryIO:
        """Opens the file for reading from its start, in large steps. Raises FileNotFoundError when there is none."""
        if self.is_local:
            with reading(self.local_path(path)):
                return self.local_path(path).open("rb")
        if self.s3 is not None:
            return io.BufferedReader(self.s3.open_input(path), HASH_CHUNK_BYTES)  # type: ignore[type-var]
        stream: BinaryIO = self.open_input(path)
        return stream

    def info(self, path: str) -> FileEntry | None:
        """The file's size and version, or None when there is no such file."""
        if self.s3 is not None:
            return self.s3.info(path)
        filesystem, root = _filesystem(self.url)
        with reading(_join(root, path)):
            info = filesystem.get_file_info(_join(root, path))
        return FileEntry(path, info.size) if info.type == pafs.FileType.File else None

    def size_bytes(self, path: str) -> int | None:
        """The file's size, or None when there is no such file."""
        info = self.info(path)
        return info.size_bytes if info else None

    def exists(self, path: str) -> bool:
        """Whether a file (not a folder) is there."""
        return self.info(path) is not None

    def list_files(self, folder: str = "", *, recursive: bool = False) -> list[FileEntry]:
        """The files below `folder`, sorted by path, unfinished ones left out; empty when there is no folder."""
        listed = self.s3.list_files(folder, recursive=recursive) if self.s3 else self._list(folder, recursive)
        return sorted(listed, key=lambda entry: entry.path)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes the whole file, atomically and durably. Raises OutputError when the place can't be written."""
        if self.s3 is not None:
            self.s3.write_bytes(path, data)
        elif self.is_local:
            with self.local_writer(path) as temporary:
                temporary.write_bytes(data)
        else:
            filesystem, root = _filesystem(self.url)
            with filesystem.open_output_stream(_join(root, path)) as stream:
                stream.write(data)

    def create(self, path: str, data: bytes) -> bool:
        """Writes the whole file unless there is one; says whether it is now this writer's. Of several, one wins.

        Where conditions are not known (see `infra.conditions`), two that write at the same moment may both win.
        """
        if self.s3 is not None:
            return self.s3.create(path, data) is not None
        if self.is_local:
            return create_local(self.local_path(path), data)
        if self.exists(path):
            return False
        self.write_bytes(path, data)
        return True

    def local_writer(self, path: str) -> LocalWriter:
        """A `with` block that gives a temporary path; leaving it without an error puts it at `path`."""
        return LocalWriter(self.local_path(path))

    def put_file(self, source: Path, path: str) -> None:
        """Moves a finished local file to `path`, atomically and durably."""
        if self.is_local:
            with self.local_writer(path) as temporary:
                shutil.move(source, temporary)
            return
        with source.open("rb") as stream:
            self.put_stream(stream, path)
        source.unlink()

    def put_stream(self, source: IO[bytes], path: str) -> str | None:
        """Copies a seekable file to `path` of a storage that is not local; returns its version."""
        if self.s3 is not None:
            return self.s3.write_file(path, source)
        filesystem, root = _filesystem(self.url)
        source.seek(0)
        with filesystem.open_output_stream(_join(root, path)) as stream:
            shutil.copyfileobj(source, stream)
        return None

    def delete(self, path: str) -> None:
        """Removes the file; one that is not there is fine."""
        if self.s3 is not None:
            self.s3.delete([path])
        elif self.exists(path):
            filesystem, root = _filesystem(self.url)
            with writing(_join(root, path)):
                filesystem.delete_file(_join(root, path))

    def delete_folder(self, folder: str) -> None:
        """Removes the folder with all it holds; one that is not there is fine."""
        if self.s3 is not None:
            self.s3.delete([entry.path for entry in self.list_files(folder, recursive=True)])
            return
        filesystem, root = _filesystem(self.url)
        with writing(_join(root, folder)):
            if filesystem.get_file_info(_join(root, folder)).type == pafs.FileType.Directory:
                filesystem.delete_dir(_join(root, folder))

    def sweep_unfinished(self) -> int:
        """Removes what writers that were killed left behind here; returns how many files or uploads."""
        if self.s3 is not None:
            return self.s3.sweep()
        leftovers = list(self.local_path().glob(f".*{TEMPORARY_SUFFIX}")) if self.is_local else []
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def require_writable(self) -> None:
        """Raises OutputError unless files can be made at the root; leaves nothing there, not even the folder."""
        name = f"{CHECK_PREFIX}{secrets.token_hex(8)}"
        if not self.is_local:
            self.write_bytes(name, b"diptych")
            self.delete(name)
            return
        trial = _nearest_existing(self.local_path()) / name
        try:
            with LocalWriter(trial, keep=False) as temporary:
                temporary.write_bytes(b"diptych")
        except OutputError as error:
            raise OutputError(error.found.replace(str(trial), self.url), error.allowed, error.fix) from error

    def free_bytes(self) -> int | None:
        """Free space for this user at the root or its nearest existing parent; None where there is no such limit."""
        if not self.is_local:
            return None
        return shutil.disk_usage(_nearest_existing(self.local_path().resolve())).free

    def _list(self, folder: str, recursive: bool) -> Iterable[FileEntry]:
        filesystem, root = _filesystem(self.url)
        selector = pafs.FileSelector(_join(root, folder), allow_not_found=True, recursive=recursive)
        prefix = f"{root.rstrip('/')}/"
        with reading(_join(root, folder)):
            infos = filesystem.get_file_info(selector)
        for info in infos:
            if info.type == pafs.FileType.File and not info.base_name.endswith(TEMPORARY_SUFFIX):
                yield FileEntry(info.path.removeprefix(prefix), info.size)


def storage_of(url: str | Path) -> Storage:
    """The storage for what a user wrote: `~` expanded, local paths made absolute, `file://` accepted.

    Raises InputError, which does not show it, for an address with a login.
    """
    place = absolute_place(str(url))
    if "://" in place and is_secret_value(place):
        raise InputError(
            f"An address {place.partition('://')[0]}://… holds a password, a key or a signature; it is not shown here.",
            "Addresses are printed, and written into records; so secrets come from environment variables.",
            "Take it out: s3://bucket/prefix with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
        )
    return Storage(place.rstrip("/") if "://" in place else place)


def sha256_of_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a local file, read in chunks."""
    with path.open("rb") as stream:
        return sha256_of_stream(stream.read)


def sha256_in(storage: Storage, path: str) -> str:
    """The hexadecimal SHA-256 of a file in storage, read in chunks."""
    with storage.open_input(path) as stream:
        return sha256_of_stream(stream.read)


def sha256_of_stream(read: Callable[[int], bytes]) -> str:
    """The hexadecimal SHA-256 of what `read` gives until it gives nothing."""
    digest = hashlib.sha256()
    while chunk := read(HASH_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    if "://" not in url:
        return pafs.LocalFileSystem(), url
    try:
        filesystem, root = pafs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{url} is not a place that can be opened ({error}).",
            "Allowed are local paths and s3://, gs://, hdfs:// addresses.",
            "Correct the address.",
        ) from error
    return filesystem, root


def _join(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}" if path else root


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
