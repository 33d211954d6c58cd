"""Reads from a dataset what the report shows of it: its manifest, some pictures, the sizes of some rows."""

import contextlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datapipe.annotation import Annotation, annotation_names, find_annotation, read_values
from datapipe.columns import is_good
from datapipe.dataset import Dataset, Manifest
from datapipe.view_file import Curation, read_curation, view_names
from infra.errors import CorruptData
from orchestrator.report.pictures import GRID_SIDE, thumbnail_uri

MAX_SHARDS = 12  # shards that are opened, whatever the dataset's size
MAX_ROWS_PER_SHARD = 20_000  # a histogram of 240,000 rows looks like one of a billion
PICTURES = 18
# What a shard raises that is gone or damaged: `verify` tells it, and the page shows what it can.
DAMAGE = (CorruptData, OSError, pa.ArrowException)
SIZE_COLUMNS = ["width", "height", "original_width", "original_height", "image_length"]

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PictureSample:
    """A picture of the dataset with its caption. `image` is a data URI, or None when it can't be decoded."""

    key: str
    caption: str
    image: str | None
    size: str
    original_size: str


@dataclass(frozen=True, slots=True)
class SizeSample:
    """The sizes of `rows` good samples: pixels and bytes. A column that the dataset lacks is missing here."""

    rows: int
    columns: dict[str, Numbers]


@dataclass(frozen=True, slots=True)
class AnnotationSample:
    """An annotation: how many rows have a value, and the values of some of them, where they are numbers to compare."""

    name: str
    values: int
    sample: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is shown of a dataset."""

    manifest: Manifest
    pictures: tuple[PictureSample, ...]
    sizes: SizeSample
    annotations: tuple[AnnotationSample, ...] = ()
    views: tuple[Curation, ...] = ()


def gather_dataset(dataset: Dataset) -> DatasetFacts:
    """Reads a bounded part of the dataset, the same part each time; what is gone or damaged is left out."""
    filled = [shard for shard, samples in enumerate(dataset.manifest.shard_samples) if samples]
    shards = [filled[index] for index in spread(len(filled), MAX_SHARDS)]
    annotations = [find_annotation(dataset.storage, name) for name in annotation_names(dataset.storage)]
    views = (read_curation(dataset.storage, name) for name in view_names(dataset.storage))
    return DatasetFacts(
        dataset.manifest,
        _pictures(dataset, shards),
        _sizes(dataset, shards),
        tuple(_annotation(dataset, annotation, shards) for annotation in annotations if annotation is not None),
        tuple(view for view in views if view is not None),
    )


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of the indices below `count`, evenly spaced and away from the ends."""
    chosen = min(count, wanted)
    return [(2 * index + 1) * count // (2 * chosen) for index in range(chosen)]


def _pictures(dataset: Dataset, shards: list[int]) -> tuple[PictureSample, ...]:
    per_shard = [PICTURES // len(shards) + (index < PICTURES % len(shards)) for index in range(len(shards))]
    chosen: list[PictureSample] = []
    for shard, wanted in zip(shards, per_shard, strict=True):
        with (
            contextlib.suppress(*DAMAGE),
            dataset.open_shard(shard, ["key", "caption", *SIZE_COLUMNS]) as reader,
        ):
            for index in spread(len(reader), wanted):
                row = reader.samples.slice(index, 1).to_pylist()[0]
                chosen.append(_picture(row, thumbnail_uri(reader.image(index), GRID_SIDE)))
    return tuple(chosen)


def _picture(row: dict[str, object], image: str | None) -> PictureSample:
    return PictureSample(
        key=str(row["key"]),
        caption=str(row.get("caption") or ""),
        image=image,
        size=_size(row.get("width"), row.get("height")),
        original_size=_size(row.get("original_width"), row.get("original_height")),
    )


def _size(width: object, height: object) -> str:
    return f"{width}×{height}" if width and height else ""


def _sizes(dataset: Dataset, shards: list[int]) -> SizeSample:
    tables = []
    for shard in shards:
        with contextlib.suppress(*DAMAGE):
            tables.append(_good_sizes(dataset, shard))
    if not tables:
        return SizeSample(0, {})
    table = pa.concat_tables(tables, promote_options="default")
    columns = {name: table[name].drop_null().cast(pa.int64()).to_numpy() for name in table.column_names}
    return SizeSample(table.num_rows, {name: values for name, values in columns.items() if len(values)})


def _good_sizes(dataset: Dataset, shard: int) -> pa.Table:
    rows = dataset.read_rows(shard, ["status", *SIZE_COLUMNS])
    good = rows.filter(is_good(rows))
    return good.slice(0, MAX_ROWS_PER_SHARD).drop_columns(["status"])


def _annotation(dataset: Dataset, annotation: Annotation, shards: list[int]) -> AnnotationSample:
    numbers = [np.empty(0)]
    with contextlib.suppress(*DAMAGE):
        for shard in shards:
            values = read_values(dataset, annotation, shard).slice(0, MAX_ROWS_PER_SHARD).drop_null()
            if pa.types.is_floating(values.type):
                numbers.append(values.cast(pa.float64()).to_numpy())
    return AnnotationSample(annotation.name, annotation.values, np.concatenate(numbers))
