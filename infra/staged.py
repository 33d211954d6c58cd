"""A file that is written on this machine first and put at its place later, together with others."""

import hashlib
import tempfile
from types import TracebackType
from typing import IO

from infra.local_files import publish, temporary_path, unwritable
from infra.storage import Storage

BUFFER_BYTES = 1 << 20


class HashedStream:
    """A stream that can only be appended to, with the size and the hash of what has been written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0
        self.closed = False

    def write(self, data: bytes | memoryview, /) -> int:
        """Appends the bytes."""
        self._digest.update(data)
        self.size_bytes += memoryview(data).nbytes
        return self._file.write(data)

    def tell(self) -> int:
        """The number of bytes written."""
        return self.size_bytes

    def flush(self) -> None:
        """Hands what is buffered to the operating system."""
        self._file.flush()

    def writable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Never."""
        return False

    def seekable(self) -> bool:
        """Never."""
        return False

    def sha256(self) -> str:
        """The hexadecimal SHA-256 of what has been written."""
        return self._digest.hexdigest()


class StagedFile:
    """A `stream` to write to, once and in order; `publish` puts it at its place in `storage`.

    A `with` block leaves nothing.

    For local storage it lies beside its place, so that publishing is a rename; for others it has no name at all, so
    that nothing stays behind when the process is killed.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self.path = path
        self._storage = storage
        self._temporary = temporary_path(storage.local_path(path)) if storage.is_local else None
        if self._temporary is None:
            self._file: IO[bytes] = tempfile.TemporaryFile(buffering=BUFFER_BYTES)  # noqa: SIM115 - closed by __exit__
        else:
            try:
                self._temporary.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("w+b", buffering=BUFFER_BYTES)
            except OSError as error:
                raise unwritable(storage.local_path(path), error) from error
        self.stream = HashedStream(self._file)

    def __enter__(self) -> "StagedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def publish(self) -> str | None:
        """Puts the file at its place, whole and durable; returns its version there, if there are versions."""
        self._file.flush()
        if self._temporary is None:
            return self._storage.put_stream(self._file, self.path)
        publish(self._temporary, self._storage.local_path(self.path))
        return None
