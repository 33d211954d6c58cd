"""Keeps encoded pictures until their turn in the shard comes: a few in memory, the others on disk."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from infra.storage import Storage

MAX_IN_MEMORY_BYTES = 16 << 20


class ImageStore:
    """Pictures by row, each put and taken once. A `with` block leaves nothing.

    The file has no name, so that nothing stays behind when the process is killed. Raises OSError for a full disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._in_memory: dict[int, bytes] = {}
        self._on_disk: dict[int, tuple[int, int]] = {}
        self._memory_bytes = 0
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> "ImageStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, row: int, data: bytes) -> None:
        """Keeps the row's picture."""
        if self._memory_bytes + len(data) <= MAX_IN_MEMORY_BYTES:
            self._in_memory[row] = data
            self._memory_bytes += len(data)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by __exit__
        self._file.seek(self._end)
        self._file.write(data)
        self._on_disk[row] = (self._end, len(data))
        self._end += len(data)

    def take(self, row: int) -> bytes:
        """The row's picture, which is not kept any longer."""
        data = self._in_memory.pop(row, None)
        if data is not None:
            self._memory_bytes -= len(data)
            return data
        assert self._file is not None
        offset, length = self._on_disk.pop(row)
        self._file.seek(offset)
        return self._file.read(length)


def scratch_folder(output: Storage) -> Path:
    """Where this machine keeps a shard's unfinished bytes: in the output itself, or with other temporary files."""
    if not output.is_local:
        return Path(tempfile.gettempdir())
    folder = output.local_path()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
