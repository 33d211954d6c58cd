"""Reads and writes whole files under one root, on local disk or an object store, through pyarrow.fs."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from infra.errors import InputError, OutputError
from infra.settings import absolute_place

TEMPORARY_SUFFIX = ".partial"
HASH_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file in storage: its path below the root, with `/`, and its size."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Storage:
    """Files under one root. Cheap to make and to pickle: it is its URL.

    `url` is a local path or an address that pyarrow.fs knows (`s3://bucket/prefix`, `gs://…`).
    Every write is atomic: a reader sees the whole file or none. Paths are relative to the root, with `/`.
    """

    url: str

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's file system."""
        return "://" not in self.url

    def at(self, path: str) -> "Storage":
        """The storage whose root is `path` below this one's."""
        return Storage(f"{self.url.rstrip('/')}/{path}")

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
        with self.open_input(path) as stream:
            return bytes(stream.read())

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only at the end of the file."""
        with self.open_input(path) as stream:
            return bytes(stream.read_at(length, offset))

    def open_input(self, path: str) -> pa.NativeFile:
        """Opens the file for random reads. Raises FileNotFoundError when there is none."""
        filesystem, root = _filesystem(self.url)
        return filesystem.open_input_file(_join(root, path))

    def size_bytes(self, path: str) -> int | None:
        """The file's size, or None when there is no such file."""
        filesystem, root = _filesystem(self.url)
        info = filesystem.get_file_info(_join(root, path))
        return info.size if info.type == pafs.FileType.File else None

    def exists(self, path: str) -> bool:
        """Whether a file (not a folder) is there."""
        return self.size_bytes(path) is not None

    def list_files(self, folder: str = "", *, recursive: bool = False) -> list[FileEntry]:
        """The files below `folder`, sorted by path, unfinished ones left out; empty when there is no folder."""
        filesystem, root = _filesystem(self.url)
        selector = pafs.FileSelector(_join(root, folder), allow_not_found=True, recursive=recursive)
        prefix = f"{root.rstrip('/')}/"
        entries = [
            FileEntry(info.path.removeprefix(prefix), info.size)
            for info in filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File and not info.base_name.endswith(TEMPORARY_SUFFIX)
        ]
        return sorted(entries, key=lambda entry: entry.path)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes the whole file, atomically and durably. Raises OutputError when the place can't be written."""
        if not self.is_local:
            self._write_remote(path, data)
            return
        with self.local_writer(path) as temporary:
            temporary.write_bytes(data)

    def local_writer(self, path: str) -> "LocalWriter":
        """A `with` block that gives a temporary path; leaving it without an error puts it at `path`."""
        return LocalWriter(self.local_path(path))

    def put_file(self, source: Path, path: str) -> None:
        """Moves a finished local file to `path`, atomically and durably."""
        if self.is_local:
            with self.local_writer(path) as temporary:
                shutil.move(source, temporary)
            return
        self._write_remote(path, source.read_bytes())
        source.unlink()

    def delete(self, path: str) -> None:
        """Removes the file; one that is not there is fine."""
        filesystem, root = _filesystem(self.url)
        if self.exists(path):
            filesystem.delete_file(_join(root, path))

    def delete_folder(self, folder: str) -> None:
        """Removes the folder with all it holds; one that is not there is fine."""
        filesystem, root = _filesystem(self.url)
        if filesystem.get_file_info(_join(root, folder)).type == pafs.FileType.Directory:
            filesystem.delete_dir(_join(root, folder))

    def sweep_unfinished(self) -> int:
        """Removes what writers that were killed left behind in this folder; returns how many files."""
        if not self.is_local:
            return 0
        leftovers = list(self.local_path().glob(f".*{TEMPORARY_SUFFIX}"))
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def require_writable(self) -> None:
        """Raises OutputError unless files can be made at the root; leaves nothing there, not even the folder."""
        if self.is_local:
            trial = _nearest_existing(self.local_path()) / f"write-check-{secrets.token_hex(4)}"
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

    def _write_remote(self, path: str, data: bytes) -> None:
        filesystem, root = _filesystem(self.url)
        with filesystem.open_output_stream(_join(root, path)) as stream:
            stream.write(data)


class LocalWriter:
    """A file that appears at `target` whole, or not at all: write to the path given, leave the block.

    On leaving, the temporary file is flushed to the disk and renamed. With `keep=False` it is removed instead.
    Raises OutputError for a folder that can't be written and for a full disk.
    """

    def __init__(self, target: Path, *, keep: bool = True) -> None:
        self._target = target
        self._keep = keep
        self._temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")

    def __enter__(self) -> Path:
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.touch()
        except OSError as error:
            raise unwritable(self._target, error) from error
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if kind is None and self._keep:
                _sync(self._temporary)
                self._temporary.replace(self._target)
                _sync(self._target.parent)
        except OSError as failure:
            raise unwritable(self._target, failure) from failure
        finally:
            self._temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise unwritable(self._target, error) from error


def unwritable(path: Path, error: OSError) -> OutputError:
    """The user's error for a file or folder that can't be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            f"The disk is full: writing {path} failed ({error.strerror}).",
            "Everything finished before this is kept.",
            "Free some space, or write elsewhere, and run the same command again: it goes on.",
        )
    return OutputError(
        f"{path} cannot be written ({error.strerror or error}).",
        "The folder must exist or be possible to make, and be writable by you.",
        "Change its permissions or choose another place.",
    )


def storage_of(url: str | Path) -> Storage:
    """The storage for what a user wrote: `~` expanded, local paths made absolute, `file://` accepted."""
    place = absolute_place(str(url))
    return Storage(place.rstrip("/") if "://" in place else place)


def sha256_of_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a local file, read in chunks."""
    with path.open("rb") as stream:
        return _sha256(stream.read)


def sha256_in(storage: Storage, path: str) -> str:
    """The hexadecimal SHA-256 of a file in storage, read in chunks."""
    with storage.open_input(path) as stream:
        return _sha256(stream.read)


def _sha256(read: Callable[[int], bytes]) -> str:
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
