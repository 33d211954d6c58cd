"""A log of lines in storage that only grows: a file on local disk, a row of objects where nothing can be appended."""

import os
import threading
import time
from typing import IO

from infra.errors import DiptychError
from infra.storage import Storage

SEGMENTS_SUFFIX = ".parts"
SEGMENT_BYTES = 1 << 20
FLUSH_EVERY_S = 5.0


class AppendLog:
    """Appends lines. A `with` block flushes at its end; `flush` makes all lines durable and raises where it can't.

    On local disk each line is handed to the operating system at once. In object storage the newest lines are a segment
    that is written again every few seconds, and begun anew when it is large; what a kill takes is less than that.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._lock = threading.Lock()  # of the lines; never held while the storage is waited for
        self._flushing = threading.Lock()
        self._lines: list[bytes] = []
        self._is_clean = True
        self._segment = _new_segment(path)
        self._flushed_at = time.monotonic()
        self._file: IO[bytes] | None = _open_at_line_start(storage, path) if storage.is_local else None

    def __enter__(self) -> "AppendLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.flush()
        except (DiptychError, OSError):
            if kind is None:
                raise
        finally:
            if self._file is not None:
                self._file.close()

    def write(self, line: str) -> None:
        """Appends the line; its end is added. A storage in trouble is not waited for: its turn comes with `flush`."""
        data = line.encode() + b"\n"
        if self._file is not None:
            self._file.write(data)
            return
        with self._lock:
            self._lines.append(data)
            self._is_clean = False
        if time.monotonic() - self._flushed_at > FLUSH_EVERY_S:
            self._flushed_at = time.monotonic()
            threading.Thread(target=self._try_to_flush, name="append-log", daemon=True).start()

    def flush(self) -> None:
        """Makes all lines durable. Raises OutputError and StorageFailed."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            return
        with self._flushing:
            with self._lock:
                if self._is_clean:
                    return
                count = len(self._lines)
                data = b"".join(self._lines)
            self._storage.write_bytes(self._segment, data)
            with self._lock:
                self._is_clean = count == len(self._lines)
                if len(data) > SEGMENT_BYTES:
                    self._lines, self._segment = self._lines[count:], _new_segment(self._path)

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except (DiptychError, OSError):
            return  # the lines are kept, and the next flush writes them


def read_log(storage: Storage, path: str) -> bytes:
    """All lines by now, in the order of their writing; empty when there is no log."""
    if storage.is_local:
        return storage.read_bytes(path) if storage.exists(path) else b""
    return b"".join(storage.read_bytes(entry.path) for entry in storage.list_files(path + SEGMENTS_SUFFIX))


def _new_segment(path: str) -> str:
    """Names sort in the order in which segments are begun."""
    return f"{path}{SEGMENTS_SUFFIX}/{time.time_ns():020d}"


def _open_at_line_start(storage: Storage, path: str) -> IO[bytes]:
    """Opened for appending; a line that a kill cut in two is ended first."""
    place = storage.local_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a+b") as tail:
        if tail.seek(0, os.SEEK_END):
            tail.seek(-1, os.SEEK_END)
            if tail.read(1) != b"\n":
                tail.write(b"\n")
    return place.open("ab", buffering=0)
