"""Streams the tables of a dataset's shards into yields by host and distributions of sizes, in bounded memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datapipe.columns import is_good, is_text
from datapipe.status import SampleStatus
from datapipe.tallies import Distribution, NameCount, NameTally, ValueTally
from infra.errors import CorruptData
from infra.storage import Storage
from infra.terminal import printable

BATCH_ROWS = 4096
NO_HOST = "(no host)"
MAX_HOST_CHARACTERS = 253  # RFC 1035, section 2.3.4
MAX_STATUSES = 200  # of a foreign dataset; ours are a closed set
OTHER_STATUS = "other"
NUMBER_COLUMNS = {
    "original_width": "original_width",
    "original_height": "original_height",
    "width": "width",
    "height": "height",
    "image_length": "image_bytes",
}
_COLUMNS = frozenset({"url", "status", "caption", *NUMBER_COLUMNS})
ASPECT_RATIO = "original_aspect_ratio"
CAPTION_CHARACTERS = "caption_characters"
DISTRIBUTIONS = (
    "original_width",
    "original_height",
    ASPECT_RATIO,
    "width",
    "height",
    "image_bytes",
    CAPTION_CHARACTERS,
)
# A URL's beginning, up to its path: rows of one host share it, so that few are taken apart one by one.
_HEAD = r"^\s*(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*)"


@dataclass(frozen=True, slots=True)
class HostYield:
    """The rows of one host. `failure` is its most frequent reason, None when no row failed."""

    host: str
    rows: int
    samples: int
    failure: str | None
    failure_rows: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What the shards' tables tell.

    `hosts` are those with most rows, of `hosts_counted`. When more hosts were seen than are held in memory,
    `host_rows_missed_at_most` is above 0: by so many rows each number of a host may be too low.
    `distributions` are of the samples alone, by name: pixels, bytes, characters, and width ÷ height.
    """

    rows: int
    hosts: tuple[HostYield, ...]
    hosts_counted: int
    host_rows_missed_at_most: int
    distributions: dict[str, Distribution]


def survey_shards(storage: Storage, names: Iterable[str], *, hosts: int) -> Survey:
    """Reads the tables of the shards of these names, some thousand rows at a time.

    Raises CorruptData when one can't be read.
    """
    counting = _Counting()
    for name in names:
        path = f"{name}.parquet"
        try:
            with storage.open_input(path) as stream:
                file = pq.ParquetFile(stream)
                wanted = [column for column in file.schema_arrow.names if column in _COLUMNS]
                for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                    counting.add(batch)
        except (pa.ArrowException, OSError, KeyError) as error:  # KeyError: two columns of one name
            raise CorruptData(
                f"{storage.url}/{path} cannot be read as a shard's table ({printable(str(error))}).",
                "Each shard that has a marker has a Parquet file.",
                "`diptych verify` names all that is damaged; `diptych build` makes it again.",
            ) from error
    return counting.result(hosts)


def host_of(url: str) -> str:
    """The URL's host name in lower case, without port and credentials; `(no host)` where there is none."""
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return NO_HOST
    return host if 0 < len(host) <= MAX_HOST_CHARACTERS else NO_HOST


class _Counting:
    def __init__(self) -> None:
        self._rows = 0
        self._hosts = NameTally()
        self._statuses: set[str] = set()
        self._values = {name: ValueTally() for name in DISTRIBUTIONS}

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        self._add_hosts(batch)
        if "status" in batch.schema.names:
            batch = batch.filter(is_good(batch))
        self._add_values(batch)

    def result(self, hosts: int) -> Survey:
        found = tuple(_host_yield(host, count) for host, count in self._hosts.most_frequent(hosts))
        drawn = {name: tally.distribution() for name, tally in self._values.items()}
        return Survey(
            rows=self._rows,
            hosts=found,
            hosts_counted=len(self._hosts),
            host_rows_missed_at_most=self._hosts.missed_at_most,
            distributions={name: distribution for name, distribution in drawn.items() if distribution.total},
        )

    def _add_hosts(self, batch: pa.RecordBatch) -> None:
        if not {"url", "status"} <= set(batch.schema.names):
            return
        # As bytes: a foreign table's strings may be no UTF-8.
        heads = pc.struct_field(pc.extract_regex(batch["url"].cast(pa.binary()), _HEAD), "head")
        grouped = pa.table({"head": heads, "status": batch["status"].cast(pa.string()).cast(pa.binary())})
        counts = grouped.group_by(["head", "status"], use_threads=False).aggregate([([], "count_all")])
        for row in counts.to_pylist():
            host = host_of((row["head"] or b"").decode("utf-8", "replace"))
            self._hosts.add(host, self._failure(row["status"] or b""), row["count_all"])

    def _failure(self, status: bytes) -> str | None:
        if status == SampleStatus.SUCCESS.value.encode():
            return None
        text = status[:MAX_HOST_CHARACTERS].decode("utf-8", "replace")
        if text not in self._statuses and len(self._statuses) >= MAX_STATUSES:
            return OTHER_STATUS
        self._statuses.add(text)
        return text

    def _add_values(self, samples: pa.RecordBatch) -> None:
        names = samples.schema.names
        for column, name in NUMBER_COLUMNS.items():
            if column in names:
                self._values[name].add(_numbers(samples[column]))
        if {"original_width", "original_height"} <= set(names):
            height = _numbers(samples["original_height"])
            with np.errstate(divide="ignore", invalid="ignore"):
                self._values[ASPECT_RATIO].add(_numbers(samples["original_width"]) / height)
        if "caption" in names and is_text(samples["caption"].type):
            self._values[CAPTION_CHARACTERS].add(_numbers(pc.utf8_length(samples["caption"])))


def _host_yield(host: str, count: NameCount) -> HostYield:
    failure, rows = max(count.failures.items(), key=lambda item: (item[1], item[0]), default=(None, 0))
    return HostYield(host, count.rows, count.samples, failure, rows)


def _numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    """The column as floats, null as NaN."""
    values: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values
