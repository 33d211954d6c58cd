"""Makes small datasets in our layout, without a web."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from datapipe.annotation import Annotation, annotation_file, annotation_folder, annotation_marker, facts_of, source_in
from datapipe.build import build_manifest
from datapipe.config import BuildConfig
from datapipe.dataset import MANIFEST_FILE, Dataset
from datapipe.outcome import RowOutcome
from datapipe.shard import ShardWriter
from datapipe.status import SampleStatus
from infra.storage import storage_of

COLORS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SHAPES = ("square", "bar", "column", "frame")


def picture(color: str, shape: str, rng: np.random.Generator) -> bytes:
    """A coloured shape on grey noise, as JPEG."""
    pixels = rng.integers(90, 160, (64, 64, 3)).astype(np.uint8)
    left, top = rng.integers(4, 16, 2)
    height, width = {"square": (36, 36), "bar": (14, 44), "column": (44, 14), "frame": (40, 40)}[shape]
    pixels[top : top + height, left : left + width] = COLORS[color]
    if shape == "frame":
        pixels[top + 10 : top + 30, left + 10 : left + 30] = 125
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def make_dataset(
    folder: Path,
    *,
    shards: int = 3,
    rows: int | list[int] = 64,
    broken: frozenset[int] = frozenset(),
    output_format: str = "webdataset",
) -> str:
    """A dataset of coloured shapes; every tenth row failed, the rows in `broken` hold bytes that are no picture.

    rows: of each shard, or of one after the other. Extra column: `color`. Returns the dataset's URL.
    """
    counts = [rows] * shards if isinstance(rows, int) else rows
    config = BuildConfig(
        input="unused.parquet",
        output=str(folder),
        number_sample_per_shard=max(counts, default=1),
        output_format=output_format,
    )
    output = storage_of(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    stats = []
    for shard in range(len(counts)):
        numbers = range(sum(counts[:shard]), sum(counts[: shard + 1]))
        kinds = [(list(COLORS)[n % 4], SHAPES[n // 4 % 4]) for n in numbers]
        table = pa.table(
            {
                "url": [f"http://example.org/{n}.jpg" for n in numbers],
                "caption": [f"a {color} {shape}" for color, shape in kinds],
                "color": [color for color, _ in kinds],
            }
        )
        with ShardWriter(output, shard, table, config) as writer:
            for row, (number, kind) in enumerate(zip(numbers, kinds, strict=True)):
                writer.add(row, *_outcome(number, kind, broken, rng))
            stats.append(writer.commit())
    manifest = build_manifest(stats, {"output_format": output_format, "encode_format": "jpg"})
    output.write_bytes(MANIFEST_FILE, manifest.to_json())
    return output.url


def write_annotation(
    dataset: Dataset, name: str, values: list[list[Any]], kind: pa.DataType, settings: dict[str, Any] | None = None
) -> None:
    """An annotation with these values, one for each row of each shard, as `annotate` leaves it."""
    files = {}
    for shard, of_shard in enumerate(values):
        sink = io.BytesIO()
        pq.write_table(pa.table({name: pa.array(of_shard, kind)}), sink)
        annotation_folder(dataset.storage, name).write_bytes(annotation_file(shard), sink.getvalue())
        files[annotation_file(shard)] = facts_of(sink.getvalue())
    rows = sum(map(len, values))
    sources = {annotation_file(shard): source_in(dataset.storage, shard) for shard in range(len(values))}
    annotation = Annotation(name, settings or {}, files, sources, rows, rows)
    dataset.storage.write_bytes(annotation_marker(name), annotation.to_json())


def _outcome(
    number: int, kind: tuple[str, str], broken: frozenset[int], rng: np.random.Generator
) -> tuple[RowOutcome, bytes | None]:
    if number % 10 == 9:
        return RowOutcome(SampleStatus.HTTP_404, "HTTP status 404"), None
    data = b"no picture" if number in broken else picture(*kind, rng)
    return RowOutcome(SampleStatus.SUCCESS, "", len(data), 64, 64, 64, 64, "{}", "0" * 64), data
