"""Whole files on local disk: each appears at its place complete and durable, or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from infra.errors import InputError, OutputError

TEMPORARY_SUFFIX = ".partial"
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class LocalWriter:
    """A file that appears at `target` whole, or not at all: write to the path given, leave the block.

    On leaving, the temporary file is flushed to the disk and renamed. With `keep=False` it is removed instead.
    Raises OutputError for a folder that can't be written and for a full disk.
    """

    def __init__(self, target: Path, *, keep: bool = True) -> None:
        self._target = target
        self._keep = keep
        self._temporary = temporary_path(target)

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
                publish(self._temporary, self._target)
        finally:
            self._temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise unwritable(self._target, error) from error


def temporary_path(target: Path) -> Path:
    """A name beside the target that no reader takes for a file."""
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def publish(temporary: Path, target: Path) -> None:
    """Flushes the finished file to the disk and renames it. Raises OutputError."""
    try:
        sync(temporary)
        temporary.replace(target)
        sync(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error


def create_local(target: Path, data: bytes) -> bool:
    """Writes the file, whole and durable, unless there is one; says whether it did. Raises OutputError."""
    temporary = temporary_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        sync(temporary)
        os.link(temporary, target)
        sync(target.parent)
    except FileExistsError:
        return False
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def reading(place: str | Path) -> Iterator[None]:
    """Raises InputError for what the block may not read."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{place} cannot be read ({os.strerror(error.errno or errno.EACCES)}).",
            "The file and all folders above it must be readable by you.",
            "Change their permissions, or ask their owner to.",
        ) from error


@contextlib.contextmanager
def writing(place: str | Path) -> Iterator[None]:
    """Raises OutputError for what the block may not write, as on a file system that is mounted for reading only."""
    try:
        yield
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise
        raise unwritable(Path(place), error) from error


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


def sync(path: Path) -> None:
    """Flushes a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
