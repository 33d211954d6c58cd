"""Keeps the body of an answer until it is decoded: in memory while there is room, else on disk."""

import contextlib
import tempfile
import threading
from pathlib import Path
from typing import IO

from infra.errors import DiptychError
from infra.local_files import unwritable
from infra.open_files import is_shortage, shortage

# Many large bodies at once would take gigabytes of memory.
MAX_IN_MEMORY_BYTES = 2 << 20
MAX_MEMORY_BYTES = 64 << 20  # of all bodies of one fetcher, those on their way and those that wait: more goes to disk


class BodyMemory:
    """The memory that the bodies of one fetcher share; of the threads, one fetches and one decodes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.used_bytes = 0
        self.waiting_bytes = 0  # of those, what bodies hold that are whole

    def take(self, size_bytes: int) -> bool:
        """Takes so much of it if there is as much."""
        with self._lock:
            if self.used_bytes + size_bytes > MAX_MEMORY_BYTES:
                return False
            self.used_bytes += size_bytes
            return True

    def keep_waiting(self, size_bytes: int) -> None:
        """Counts so much of what was taken as held by a body that is whole."""
        with self._lock:
            self.waiting_bytes += size_bytes

    def give_back(self, size_bytes: int, waiting_bytes: int = 0) -> None:
        """Gives back what was taken, `waiting_bytes` of it by a body that is whole."""
        with self._lock:
            self.used_bytes -= size_bytes
            self.waiting_bytes -= waiting_bytes


class Body:
    """The bytes of one answer. `folder` is where those wait that are not in memory; None: with other temporary files.

    The file has no name, so that nothing stays behind when the process is killed. Raises OutputError when it cannot be
    written, MachineError when it cannot be opened.
    """

    def __init__(self, folder: str | None, memory: BodyMemory) -> None:
        self._folder = folder
        self._memory = memory
        self._chunks: list[bytes] = []
        self._in_memory_bytes = 0
        self._waiting_bytes = 0
        self._file: IO[bytes] | None = None
        self.size_bytes = 0

    def append(self, chunk: bytes) -> None:
        """Takes the next piece."""
        self.size_bytes += len(chunk)
        if self._file is None and self.size_bytes <= MAX_IN_MEMORY_BYTES and self._memory.take(len(chunk)):
            self._chunks.append(chunk)
            self._in_memory_bytes += len(chunk)
            return
        try:
            self._to_file().write(chunk)
        except OSError as error:
            raise self._explained(error) from error

    def end(self) -> None:
        """Takes no more pieces: the body is whole, and waits to be taken."""
        self._waiting_bytes = self._in_memory_bytes
        self._memory.keep_waiting(self._waiting_bytes)

    def take(self, most_bytes: int | None = None) -> bytes:
        """The body, or so much of it, which is not kept any longer."""
        try:
            if self._file is None:
                return b"".join(self._chunks)[:most_bytes]
            self._file.seek(0)
            return self._file.read(-1 if most_bytes is None else most_bytes)
        except OSError as error:
            raise self._explained(error) from error
        finally:
            self.clear()

    def clear(self) -> None:
        """Lets go of what there is."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written cannot be on closing either
                self._file.close()
            self._file = None
        self._forget_chunks()
        self.size_bytes = 0

    def _to_file(self) -> IO[bytes]:
        """The file, into which all goes that was in memory."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `clear`
            self._file.writelines(self._chunks)
            self._forget_chunks()
        return self._file

    def _forget_chunks(self) -> None:
        self._chunks.clear()
        self._memory.give_back(self._in_memory_bytes, self._waiting_bytes)
        self._in_memory_bytes = self._waiting_bytes = 0

    def _explained(self, error: OSError) -> DiptychError:
        return shortage(error) if is_shortage(error) else unwritable(Path(self._folder or tempfile.gettempdir()), error)
