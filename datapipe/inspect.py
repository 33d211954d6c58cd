"""Sums up a dataset: counts, yield by reason, sizes."""

from dataclasses import dataclass

from datapipe.dataset import Dataset


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A dataset in numbers. `status_counts` add up to `rows`."""

    url: str
    shards: int
    rows: int
    samples: int
    total_bytes: int
    status_counts: dict[str, int]


def inspect(url: str) -> DatasetSummary:
    """Reads the manifest alone. Raises InputError when there is no finished dataset at `url`."""
    dataset = Dataset.open(url)
    manifest = dataset.manifest
    return DatasetSummary(
        url=dataset.storage.url,
        shards=len(manifest.shard_rows),
        rows=manifest.rows,
        samples=manifest.samples,
        total_bytes=manifest.total_bytes,
        status_counts=manifest.status_counts,
    )
