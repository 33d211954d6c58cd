"""Collects the body of an answer: in memory while it is small, on disk when it grows."""

import tempfile
from typing import IO

# Many large bodies at once would take gigabytes of memory.
MAX_IN_MEMORY_BYTES = 2 << 20


class Body:
    """The bytes of one answer. `folder` is where a large one waits; None: with other temporary files."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._chunks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.size_bytes = 0

    def append(self, chunk: bytes) -> None:
        """Takes the next piece."""
        self.size_bytes += len(chunk)
        if self.size_bytes > MAX_IN_MEMORY_BYTES:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `clear`
                self._file.writelines(self._chunks)
                self._chunks.clear()
            self._file.write(chunk)
        else:
            self._chunks.append(chunk)

    def take(self) -> bytes:
        """The whole body, which is not kept any longer."""
        if self._file is None:
            data = b"".join(self._chunks)
        else:
            self._file.seek(0)
            data = self._file.read()
        self.clear()
        return data

    def clear(self) -> None:
        """Lets go of what there is."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._chunks.clear()
        self.size_bytes = 0
