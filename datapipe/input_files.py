"""Finds the files of a URL list: one file, a folder or a glob, on local disk or in an object store."""

import fnmatch
import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from datapipe.convert import TEXT_FORMATS
from infra.errors import InputError
from infra.storage import Storage, sha256_in

FORMATS = ("parquet", *TEXT_FORMATS)
WILDCARDS = "*?["


@dataclass(frozen=True, slots=True)
class ListFile:
    """One file of a URL list."""

    storage: Storage
    name: str

    def __str__(self) -> str:
        return self.url

    @classmethod
    def at(cls, url: str) -> "ListFile":
        """The file at a path or an address."""
        folder, _, name = url.rpartition("/")
        return cls(Storage(folder or "/"), name)

    @property
    def url(self) -> str:
        """The file's path or address."""
        return f"{self.storage.url.rstrip('/')}/{self.name}"

    @property
    def format(self) -> str | None:
        """Its format, by its ending; None for one that is not known."""
        name = self.name.lower()
        ending = name.removesuffix(".gz").rpartition(".")[2]
        return ending if ending in (TEXT_FORMATS if name.endswith(".gz") else FORMATS) else None

    @property
    def size_bytes(self) -> int:
        """Its size. Raises FileNotFoundError."""
        size = self.storage.size_bytes(self.name)
        if size is None:
            raise FileNotFoundError(self.url)
        return size

    def sha256(self) -> str:
        """The hash of its bytes."""
        return sha256_in(self.storage, self.name)

    def open_random(self) -> pa.NativeFile:
        """Opens it for reads at any place."""
        return self.storage.open_input(self.name)

    def open_stream(self) -> BinaryIO:
        """Opens it for reading from its start."""
        return self.storage.open_stream(self.name)


def find_input_files(pattern: str) -> list[ListFile]:
    """The list's files, sorted: a file, all files of a folder with a known ending, or a glob.

    Raises InputError when there is none or one has an unknown ending.
    """
    found = files_there(pattern)
    if not found:
        raise InputError(
            f"build.input: {pattern} names no file.",
            f"Allowed are a file, a folder or a glob of {', '.join(FORMATS)} files (text also as .gz).",
            "Check the path; a relative one is meant from where the command runs.",
        )
    for file in found:
        if file.format is None:
            raise InputError(
                f"build.input: {file} has an ending that is not known.",
                f"Allowed are {', '.join(FORMATS)}, of text also .gz.",
                "Rename or convert the file.",
            )
    return found


def files_there(pattern: str) -> list[ListFile]:
    """The same, none or of whatever ending."""
    return _find_remote(pattern) if "://" in pattern else _find_local(pattern)


def would_find(pattern: str, place: str) -> bool:
    """Whether `find_input_files` would take a file for the list's if it came to that path or address."""
    if "://" in pattern or "://" in place:
        return _would_find_remote(pattern, place)
    path, file = Path(pattern).expanduser().resolve(), Path(place).resolve()
    if path.is_dir():
        return file.parent == path and ListFile.at(place).format is not None
    return file == path or (not path.is_file() and _matches(file.parts, path.parts))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """As `glob` does it: `**` stands for any number of folders, other signs for a part of one name."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return len(pattern) == 1 or _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _find_local(pattern: str) -> list[ListFile]:
    path = Path(pattern).expanduser().absolute()
    if path.is_dir():
        files = [ListFile.at(str(entry)) for entry in sorted(path.iterdir()) if entry.is_file()]
        return [file for file in files if file.format is not None]
    names = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))
    return [ListFile.at(name) for name in names if Path(name).is_file()]


def _find_remote(pattern: str) -> list[ListFile]:
    fixed = _fixed_part(pattern)
    is_in_bucket = "/" in fixed.partition("://")[2]
    if fixed == pattern:
        if is_in_bucket and not pattern.endswith("/") and (file := ListFile.at(pattern)).storage.exists(file.name):
            return [file]
        folder = Storage(pattern.rstrip("/"))
        return [file for entry in folder.list_files() if (file := ListFile(folder, entry.path)).format is not None]
    if not is_in_bucket:
        return []  # buckets are not looked for
    folder = Storage(fixed.rpartition("/")[0])
    wanted = pattern.removeprefix(f"{folder.url}/")
    entries = folder.list_files(recursive="/" in wanted)
    return [ListFile.at(f"{folder.url}/{entry.path}") for entry in entries if fnmatch.fnmatchcase(entry.path, wanted)]


def _would_find_remote(pattern: str, place: str) -> bool:
    fixed, file = _fixed_part(pattern), ListFile.at(place)
    if fixed == pattern:
        return place == pattern or (file.storage.url == pattern.rstrip("/") and file.format is not None)
    folder = f"{fixed.rpartition('/')[0]}/"
    wanted, name = pattern.removeprefix(folder), place.removeprefix(folder)
    return place.startswith(folder) and fnmatch.fnmatchcase(name, wanted) and ("/" in wanted or "/" not in name)


def _fixed_part(pattern: str) -> str:
    return pattern[: min((pattern.find(sign) for sign in WILDCARDS if sign in pattern), default=len(pattern))]
