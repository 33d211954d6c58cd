"""Reads single pictures of a shard in the Parquet format, holding some of its row groups and never the whole."""

import itertools
import os
import weakref
from collections import OrderedDict
from threading import Lock

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage

# Of one process, over all its shards: two windows of the training's order touch 128 row groups of some 6 MB each.
HELD_BYTES = 1 << 30


class ImageColumn:
    """The encoded pictures of some rows of one shard, by their index among those rows. Safe to share between threads.

    rows: which rows of the table, in order. Closes when it is let go of, so that a cache may drop it while another
    thread still reads. Raises KeyError when the table has no such column.
    """

    def __init__(self, storage: Storage, path: str, column: str, rows: npt.NDArray[np.int64]) -> None:
        self._column = column
        self._rows = rows
        self._number = next(_numbers)
        stream = storage.open_input(path)
        self._file = pq.ParquetFile(stream)
        self._close = weakref.finalize(self, _let_go, self._number, stream)
        if column not in self._file.schema_arrow.names:
            raise KeyError(f"it has no column {column}")
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._lock = Lock()

    def __getitem__(self, index: int) -> bytes:
        row = int(self._rows[index])
        group = int(np.searchsorted(self._ends, row, side="right"))
        before = int(self._ends[group - 1]) if group else 0
        return bytes(self._group(group)[row - before].as_buffer())

    def close(self) -> None:
        """Lets go of the file and of what is held of it."""
        self._close()

    def _group(self, group: int) -> pa.ChunkedArray:
        found = _held.get((self._number, group))
        if found is None:
            with self._lock:  # of the threads that want the group, one reads it
                found = _held.get((self._number, group))
                if found is None:
                    found = self._file.read_row_group(group, columns=[self._column])[self._column]
                    _held.put((self._number, group), found)
        return found


class _HeldGroups:
    """The row groups that were read last, up to HELD_BYTES; the newest one whatever its size."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._groups: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: tuple[int, int]) -> pa.ChunkedArray | None:
        with self._lock:
            if key in self._groups:
                self._groups.move_to_end(key)
            return self._groups.get(key)

    def put(self, key: tuple[int, int], group: pa.ChunkedArray) -> None:
        with self._lock:
            self._groups[key] = group
            self._bytes += group.nbytes
            while self._bytes > HELD_BYTES and len(self._groups) > 1:
                self._bytes -= self._groups.popitem(last=False)[1].nbytes

    def drop(self, number: int) -> None:
        with self._lock:
            for key in [key for key in self._groups if key[0] == number]:
                self._bytes -= self._groups.pop(key).nbytes


def _let_go(number: int, stream: pa.NativeFile) -> None:
    _held.drop(number)
    stream.close()


_numbers = itertools.count()
_held = _HeldGroups()
os.register_at_fork(after_in_child=_held.forget)  # another thread may have had its lock
