"""Fetches the pictures of coming samples from object storage: several requests at once, neighbours in one."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np

from infra.patience import persist
from training.open_shards import OpenShards
from training.samples import Samples
from training.selection import Integers

REQUESTS_AT_ONCE = 16
LARGEST_GAP = 128 << 10  # bytes that are read and thrown away sooner than asking once more
LONGEST_RANGE = 8 << 20
PATIENCE_S = 300.0

Pictures = dict[int, bytes]


class ReadAhead:
    """The encoded pictures of samples that were announced. `close` ends its threads."""

    def __init__(self, samples: Samples, shards: OpenShards) -> None:
        self._samples = samples
        self._shards = shards
        self._waiting: dict[int, list[Future[Pictures]]] = {}
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="read-ahead")

    def expect(self, numbers: Integers) -> None:
        """Begins to fetch the pictures of these samples, each of which will be taken once."""
        sources, shards, indices = self._samples.locate(numbers)
        places = sources * (int(shards.max(initial=0)) + 1) + shards
        for place in np.unique(places):
            rows = np.flatnonzero(places == place)
            wanted = [(int(numbers[row]), int(indices[row])) for row in rows]
            source, shard = int(sources[rows[0]]), int(shards[rows[0]])
            with self._lock:
                future = self._threads.submit(self._fetch, source, shard, wanted)
                for number, _ in wanted:
                    self._waiting.setdefault(number, []).append(future)

    def take(self, number: int) -> bytes | None:
        """The picture, once it is there; None when it was not announced."""
        with self._lock:
            futures = self._waiting.get(number)
            future = futures.pop(0) if futures else None
            if futures is not None and not futures:
                del self._waiting[number]
        return None if future is None else future.result()[number]

    def close(self) -> None:
        """Ends the requests that have not begun."""
        self._threads.shutdown(cancel_futures=True)

    def _fetch(self, source: int, shard: int, wanted: list[tuple[int, int]]) -> Pictures:
        def read() -> Pictures:
            reader, pictures = self._shards.get(source, shard), Pictures()
            places = [(*reader.byte_range(index), number) for number, index in wanted]
            for group in _neighbours(sorted(places)):
                start = group[0][0]
                data = reader.read_range(start, max(offset + length for offset, length, _ in group) - start)
                pictures |= {number: data[offset - start :][:length] for offset, length, number in group}
            return pictures

        return persist(read, until=time.monotonic() + PATIENCE_S)


def _neighbours(places: Sequence[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Cuts (offset, length, number) in the order of offsets into groups that one request reads."""
    group: list[tuple[int, int, int]] = []
    for place in places:
        end = group[-1][0] + group[-1][1] if group else 0
        if group and (place[0] - end > LARGEST_GAP or place[0] + place[1] - group[0][0] > LONGEST_RANGE):
            yield group
            group = []
        group.append(place)
    if group:
        yield group
