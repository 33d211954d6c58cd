"""Opens a finished dataset: its manifest, its shards, and any image by shard and index."""

import json
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datapipe.image_column import ImageColumn
from datapipe.status import SampleStatus
from infra.errors import InputError
from infra.storage import Storage, storage_of

SHARD_DIGITS = 5  # img2dataset's oom_shard_count
MANIFEST_FILE = "dataset.json"
FORMAT_VERSION = 1
READ_STEP_BYTES = 8 << 20


def shard_name(shard: int) -> str:
    """`00003` for 3, as img2dataset names it."""
    return f"{shard:0{SHARD_DIGITS}d}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a finished dataset.

    `shard_rows` and `shard_samples` have one number a shard: input rows, and those that became samples.
    `settings` are the build settings that the bytes depend on. `status_counts` add up to all rows.
    """

    format_version: int
    settings: dict[str, Any]
    shard_rows: tuple[int, ...]
    shard_samples: tuple[int, ...]
    status_counts: dict[str, int]
    total_bytes: int

    @property
    def rows(self) -> int:
        """Input rows."""
        return sum(self.shard_rows)

    @property
    def samples(self) -> int:
        """Rows that became samples."""
        return sum(self.shard_samples)

    def to_json(self) -> bytes:
        """The manifest as it is written."""
        return (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Reads `to_json`'s bytes."""
        raw = json.loads(data)
        return cls(**{**raw, "shard_rows": tuple(raw["shard_rows"]), "shard_samples": tuple(raw["shard_samples"])})


@dataclass(frozen=True, slots=True)
class Dataset:
    """A finished dataset, opened for reading. Cheap to pickle."""

    storage: Storage
    manifest: Manifest

    @classmethod
    def open(cls, url: str) -> "Dataset":
        """Opens the dataset at `url`. Raises InputError when no finished one is there."""
        storage = storage_of(url)
        if not storage.exists(MANIFEST_FILE):
            raise InputError(
                f"{storage.url} holds no finished dataset ({MANIFEST_FILE} is missing).",
                "A dataset's folder is complete once `diptych build` has written that file.",
                "Give the dataset's folder, or run `diptych build` with the same config: it goes on.",
            )
        manifest = Manifest.from_json(storage.read_bytes(MANIFEST_FILE))
        if manifest.format_version != FORMAT_VERSION:
            raise InputError(
                f"{storage.url}/{MANIFEST_FILE} has format version {manifest.format_version}.",
                f"This diptych reads version {FORMAT_VERSION}.",
                "Use the diptych that built it, or build it again.",
            )
        return cls(storage, manifest)

    @property
    def is_webdataset(self) -> bool:
        """Whether images lie in tar files (else in a column of the Parquet files)."""
        return bool(self.manifest.settings["output_format"] == "webdataset")

    def read_rows(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """The shard's table: one row per input row, images left out."""
        with self.storage.open_input(f"{shard_name(shard)}.parquet") as stream:
            file = pq.ParquetFile(stream)
            kept = [name for name in file.schema_arrow.names if name != _image_column(self)]
            return file.read(columns=kept if columns is None else columns)

    def column_names(self, shard: int) -> list[str]:
        """The columns of the shard's table, images left out."""
        with self.storage.open_input(f"{shard_name(shard)}.parquet") as stream:
            names = pq.ParquetFile(stream).schema_arrow.names
        return [name for name in names if name != _image_column(self)]

    def open_shard(self, shard: int, columns: list[str]) -> "ShardReader":
        """Opens one shard for its good samples, with `columns` of their table."""
        return ShardReader(self, shard, columns)


class ShardReader:
    """The good samples of one shard, by index: `samples` is their table, `image(i)` their encoded bytes.

    Safe to share between threads. A `with` block or `close` lets go of the file.
    """

    def __init__(self, dataset: Dataset, shard: int, columns: list[str]) -> None:
        self._webdataset = dataset.is_webdataset
        extra = ["image_offset", "image_length"] if self._webdataset else []
        table = dataset.read_rows(shard, list(dict.fromkeys([*columns, "status", *extra])))
        good = pc.equal(table["status"], SampleStatus.SUCCESS.value)
        self.samples: pa.Table = table.filter(good)
        name = shard_name(shard)
        if self._webdataset:
            self._offsets = self.samples["image_offset"].to_numpy()
            self._lengths = self.samples["image_length"].to_numpy()
            self._file = _RangeFile(dataset.storage, f"{name}.tar")
        else:
            rows = np.flatnonzero(good.to_numpy())
            self._images = ImageColumn(dataset.storage, f"{name}.parquet", _image_column(dataset), rows)

    def __len__(self) -> int:
        return int(self.samples.num_rows)

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def image(self, index: int) -> bytes:
        """The encoded picture of the `index`-th good sample."""
        if self._webdataset:
            return self._file.read(int(self._offsets[index]), int(self._lengths[index]))
        return self._images[index]

    def images(self) -> Iterator[bytes]:
        """The encoded pictures of all good samples, in order; they are read in large steps."""
        if not self._webdataset:
            yield from (self._images[index] for index in range(len(self)))
            return
        for first, after in self._steps():
            start = int(self._offsets[first])
            data = self.read_range(start, int(self._offsets[after - 1] + self._lengths[after - 1]) - start)
            for index in range(first, after):
                place = int(self._offsets[index]) - start
                yield data[place : place + int(self._lengths[index])]

    def _steps(self) -> Iterator[tuple[int, int]]:
        """Runs of samples, first and after, whose pictures lie within READ_STEP_BYTES; or single ones."""
        starts, ends = self._offsets.tolist(), (self._offsets + self._lengths).tolist()
        first = 0
        for index in range(1, len(self) + 1):
            if index == len(self) or ends[index] - starts[first] > READ_STEP_BYTES:
                yield first, index
                first = index

    def byte_range(self, index: int) -> tuple[int, int]:
        """Offset and length of the `index`-th good sample's picture in the shard's tar file."""
        return int(self._offsets[index]), int(self._lengths[index])

    def read_range(self, offset: int, length: int) -> bytes:
        """Bytes of the shard's tar file; fewer only at its end."""
        return self._file.read(offset, length)

    def close(self) -> None:
        """Lets go of the shard's file."""
        (self._file if self._webdataset else self._images).close()


class _RangeFile:
    """Reads byte ranges from several threads at once: by pread on local disk, by range requests elsewhere.

    Closes when it is let go of, so that a cache may drop it while another thread still reads.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._stream: pa.NativeFile | None = None
        self._descriptor = -1
        self._close: Callable[[], object]
        if storage.is_local:
            self._descriptor = os.open(storage.local_path(path), os.O_RDONLY)
            self._close = weakref.finalize(self, os.close, self._descriptor)
        else:
            self._stream = storage.open_input(path)
            self._close = weakref.finalize(self, pa.NativeFile.close, self._stream)

    def read(self, offset: int, length: int) -> bytes:
        if self._stream is None:
            return os.pread(self._descriptor, length, offset)
        return bytes(self._stream.read_at(length, offset))

    def close(self) -> None:
        self._close()


def _image_column(dataset: Dataset) -> str:
    """The name of the images' column in the Parquet format: the encoding's, as in img2dataset."""
    return str(dataset.manifest.settings["encode_format"])
