"""Sums up a dataset, finished or not: counts, yield by reason, sizes, and what is unusual about them."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from datapipe.advice import Advice, advise
from datapipe.annotation import annotation_names, find_annotation
from datapipe.dataset import MANIFEST_FILE, Dataset, shard_name
from datapipe.marker import STATS_SUFFIX
from datapipe.status import SampleStatus
from datapipe.survey import Survey, survey_shards
from datapipe.view_file import count_rows, view_names
from infra.storage import Storage, storage_of

READERS = 16  # markers read at once: on object storage each takes some 20 ms of waiting
_MARKER = re.compile(rf"(\d{{5,}}){re.escape(STATS_SUFFIX)}")


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A dataset in numbers. `status_counts` add up to `rows`.

    While `is_finished` is false, all of it is of the `shards` that are in so far; `bad_markers` are the files that
    should vouch for a shard and can't be read. `total_bytes` are those of the shards' own files.
    """

    url: str
    is_finished: bool
    shards: int
    rows: int
    samples: int
    total_bytes: int
    status_counts: dict[str, int]
    advice: tuple[Advice, ...]
    bad_markers: tuple[str, ...] = ()
    annotations: dict[str, int] = field(default_factory=dict)
    """How many rows have a value, by the annotation's name."""
    views: dict[str, int] = field(default_factory=dict)
    """How many samples are in it, by the view's name."""


@dataclass(frozen=True, slots=True)
class _Marker:
    shard: int
    rows: int
    samples: int
    status_counts: Mapping[str, int]


def inspect(url: str) -> DatasetSummary:
    """Reads the manifest, or the markers of the shards that are in. Raises InputError when there are none."""
    storage = storage_of(url)
    if not storage.exists(MANIFEST_FILE):
        return _unfinished(storage)
    manifest = Dataset.open(url).manifest
    return DatasetSummary(
        url=storage.url,
        is_finished=True,
        shards=len(manifest.shard_rows),
        rows=manifest.rows,
        samples=manifest.samples,
        total_bytes=manifest.total_bytes,
        status_counts=manifest.status_counts,
        advice=tuple(advise(manifest.status_counts)),
        annotations=_annotations(storage),
        views={name: rows for name in view_names(storage) if (rows := count_rows(storage, name)) is not None},
    )


def _annotations(storage: Storage) -> dict[str, int]:
    found = {name: find_annotation(storage, name) for name in annotation_names(storage)}
    return {name: annotation.values for name, annotation in found.items() if annotation is not None}


def inspect_rows(url: str, *, hosts: int, on_shard: Callable[[int, int], None] | None = None) -> Survey:
    """Reads the tables of all shards that are in, one after another, for the numbers that no marker holds.

    Raises InputError when no shard is there, CorruptData when a table can't be read.

    Args:
        url: the dataset's folder.
        hosts: how many hosts are wanted, those with most rows first.
        on_shard: called with how many shards are read, and of how many.
    """
    storage = storage_of(url)
    if storage.exists(MANIFEST_FILE):
        names = [shard_name(shard) for shard in range(len(Dataset.open(url).manifest.shard_rows))]
    else:
        names = [shard_name(marker.shard) for marker in _read_markers(storage)[0]]
        if not names:
            Dataset.open(url)  # raises the error that says what a dataset is
    return survey_shards(storage, _reported(names, on_shard), hosts=hosts)


def _reported(names: Sequence[str], on_shard: Callable[[int, int], None] | None) -> Iterable[str]:
    for done, name in enumerate(names):
        if on_shard is not None:
            on_shard(done, len(names))
        yield name


def _unfinished(storage: Storage) -> DatasetSummary:
    markers, bad = _read_markers(storage)
    if not markers and not bad:
        Dataset.open(storage.url)  # raises the error that says what a dataset is
    counts = Counter[str]()
    for marker in markers:
        counts.update(marker.status_counts)
    files = {f"{shard_name(marker.shard)}.{kind}" for marker in markers for kind in ("tar", "parquet")}
    return DatasetSummary(
        url=storage.url,
        is_finished=False,
        shards=len(markers),
        rows=sum(marker.rows for marker in markers),
        samples=sum(marker.samples for marker in markers),
        total_bytes=sum(entry.size_bytes for entry in storage.list_files() if entry.path in files),
        status_counts=dict(sorted(counts.items())),
        advice=tuple(advise(counts)),
        bad_markers=tuple(bad),
    )


def _read_markers(storage: Storage) -> tuple[list[_Marker], list[str]]:
    """The markers in the order of their shards, and the names of those that are none."""
    names = [entry.path for entry in storage.list_files() if _MARKER.fullmatch(entry.path)]
    with ThreadPoolExecutor(READERS) as pool:
        read = list(pool.map(lambda name: _read_marker(storage, name), names))
    bad = [name for name, marker in zip(names, read, strict=True) if marker is None]
    return [marker for marker in read if marker is not None], bad


def _read_marker(storage: Storage, name: str) -> _Marker | None:
    """Ours or img2dataset's; None for what is neither."""
    match = _MARKER.fullmatch(name)
    assert match
    try:
        raw = json.loads(storage.read_bytes(name))
        counts = {str(status): int(rows) for status, rows in raw["status_dict"].items()}
        samples = counts.get(SampleStatus.SUCCESS.value, 0)
        return _Marker(int(match[1]), int(raw["count"]), samples, counts)
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError):
        return None
