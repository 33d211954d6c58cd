"""What is known of a file in storage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: its path below the storage's root, with `/`, its size, and on object stores its version (ETag)."""

    path: str
    size_bytes: int
    version: str | None = None
