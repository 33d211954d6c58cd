"""A log of lines in storage that only grows: a file on local disk, a row of objects where nothing can be appended."""

import contextlib
import math
import os
import threading
import time
from typing import IO

from infra.errors import DiptychError
from infra.local_files import unwritable
from infra.storage import Storage

SEGMENTS_SUFFIX = ".parts"
SEGMENT_BYTES = 1 << 20
FLUSH_EVERY_S = 5.0
TAIL_BYTES = 1 << 16


class AppendLog:
    """Appends lines. A `with` block flushes at its end; `flush` makes all lines durable and raises where it can't.

    On local disk each line is handed to the operating system at once. In object storage the newest lines are a segment
    that is written again every few seconds, and begun anew when it is large; what a kill takes is less than that.
    """

    def __init__(self, storage: Storage, path: str, flush_every_s: float = FLUSH_EVERY_S) -> None:
        self._storage = storage
        self._path = path
        self._flush_every_s = flush_every_s
        self._lock = threading.Lock()  # of the lines; never held while the storage is written to
        self._flushing = threading.Lock()
        self._lines: list[bytes] = []
        self._durable = 0  # of the lines
        self._segment = _new_segment(path)
        self._flushed_at = -math.inf  # the first line goes at once: somebody waits to see that it works
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
            self.close()

    def write(self, line: str) -> None:
        """Appends the line; its end is added. A storage in trouble is not waited for: its turn comes with `flush`."""
        data = line.encode() + b"\n"
        if self._file is not None:
            self._file.write(data)
            return
        with self._lock:
            self._lines.append(data)
        if time.monotonic() - self._flushed_at > self._flush_every_s:
            self._flushed_at = time.monotonic()
            threading.Thread(target=self._try_to_flush, name="append-log", daemon=True).start()

    def flush(self) -> None:
        """Makes all lines durable. Raises OutputError and StorageFailed."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            return
        with self._flushing:
            self._write_segment()

    def close(self) -> None:
        """Lets go of the file. Lines that are not durable are left to the operating system, or lost."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # it is let go of in any case
                self._file.close()

    def _write_segment(self) -> None:
        with self._lock:
            lines = list(self._lines)
        if len(lines) == self._durable:
            return
        data = b"".join(lines)
        self._storage.write_bytes(self._segment, data)
        self._durable = len(lines)
        if len(data) > SEGMENT_BYTES:
            with self._lock:
                del self._lines[: len(lines)]
            self._segment, self._durable = _new_segment(self._path), 0

    def _try_to_flush(self) -> None:
        if not self._flushing.acquire(blocking=False):
            return  # the one before still waits for its storage
        try:
            self._write_segment()
        except (DiptychError, OSError):
            return  # the lines are kept, and the next flush writes them
        finally:
            self._flushing.release()


def read_log(storage: Storage, path: str) -> bytes:
    """All lines by now, in the order of their writing; empty when there is no log."""
    if storage.is_local:
        return storage.read_bytes(path) if storage.exists(path) else b""
    return b"".join(storage.read_bytes(entry.path) for entry in storage.list_files(path + SEGMENTS_SUFFIX))


def read_tail(storage: Storage, path: str, length: int = TAIL_BYTES) -> bytes:
    """The newest lines, of at most `length` bytes, whole at their beginning; empty when there is no log."""
    if storage.is_local:
        size = storage.size_bytes(path)
        parts = [] if size is None else [(path, size)]
    else:
        parts = [(entry.path, entry.size_bytes) for entry in storage.list_files(path + SEGMENTS_SUFFIX)]
    tail = b""
    for part, size in reversed(parts):
        if len(tail) == length:
            break
        start = max(0, size - (length - len(tail)))
        tail = storage.read_range(part, start, size - start) + tail
        if start:
            return tail[tail.find(b"\n") + 1 :]
    return tail


def _new_segment(path: str) -> str:
    """Names sort in the order in which segments are begun."""
    return f"{path}{SEGMENTS_SUFFIX}/{time.time_ns():020d}"


def _open_at_line_start(storage: Storage, path: str) -> IO[bytes]:
    """Opened for appending; a line that a kill cut in two is ended first. Raises OutputError."""
    place = storage.local_path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a+b") as tail:
            if tail.seek(0, os.SEEK_END):
                tail.seek(-1, os.SEEK_END)
                if tail.read(1) != b"\n":
                    tail.write(b"\n")
        return place.open("ab", buffering=0)
    except OSError as error:
        raise unwritable(place, error) from error
