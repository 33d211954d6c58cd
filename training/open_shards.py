"""Keeps the shards that were read last open, for several threads."""

from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock

from datapipe.dataset import ShardReader
from training.samples import Samples

OPEN_SHARDS = 128  # of each dataset: two windows of the sample order touch that many blocks


class OpenShards:
    """Shards by selection and number. One that is dropped closes when its last reader is done with it."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._readers: OrderedDict[tuple[int, int], Future[ShardReader]] = OrderedDict()
        self._lock = Lock()

    def get(self, source: int, shard: int) -> ShardReader:
        """The shard's reader, with its keys and captions; others wait only for a shard that they want themselves."""
        key = (source, shard)
        with self._lock:
            future = self._readers.get(key)
            is_mine = future is None
            if future is None:
                future = self._readers[key] = Future()
                if len(self._readers) > OPEN_SHARDS * len(self._samples.selections):
                    self._readers.popitem(last=False)
            self._readers.move_to_end(key)
        if is_mine:
            self._open(key, future)
        return future.result()

    def _open(self, key: tuple[int, int], future: "Future[ShardReader]") -> None:
        selection = self._samples.selections[key[0]]
        try:
            future.set_result(selection.dataset.open_shard(key[1], ["key", *selection.captions]))
        except BaseException as error:  # noqa: BLE001 - raised again by everyone who waits for the shard
            with self._lock:
                self._readers.pop(key, None)
            future.set_exception(error)
