"""A file that is written on this machine first and put at its place later, together with others."""

import tempfile
from types import TracebackType
from typing import BinaryIO

from infra.local_files import publish, temporary_path, unwritable
from infra.storage import Storage, sha256_of_stream


class StagedFile:
    """A seekable `stream` to write to; `publish` puts it at its place in `storage`. A `with` block leaves nothing.

    For local storage it lies beside its place, so that publishing is a rename; for others it has no name at all, so
    that nothing stays behind when the process is killed.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self.path = path
        self.stream: BinaryIO
        self._storage = storage
        self._temporary = temporary_path(storage.local_path(path)) if storage.is_local else None
        if self._temporary is None:
            self.stream = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
            return
        try:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self.stream = self._temporary.open("w+b")
        except OSError as error:
            raise unwritable(storage.local_path(path), error) from error

    def __enter__(self) -> "StagedFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def size_and_sha256(self) -> tuple[int, str]:
        """Of what has been written."""
        self.stream.flush()
        self.stream.seek(0)
        digest = sha256_of_stream(self.stream.read)
        return self.stream.tell(), digest

    def publish(self) -> str | None:
        """Puts the file at its place, whole and durable; returns its version there, if there are versions."""
        if self._temporary is None:
            return self._storage.put_stream(self.stream, self.path)
        self.stream.flush()
        publish(self._temporary, self._storage.local_path(self.path))
        return None
