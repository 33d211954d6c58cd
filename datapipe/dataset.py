"""Opens a finished dataset: its manifest, its shards, and any image by shard and index."""

import contextlib
import json
import os
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datapipe.columns import has_text_everywhere, is_good
from datapipe.image_column import ImageColumn
from infra.errors import CorruptData, InputError, first_line
from infra.storage import Storage, storage_of

SHARD_DIGITS = 5  # img2dataset's oom_shard_count
MANIFEST_FILE = "dataset.json"
FORMAT_VERSION = 1
READ_STEP_BYTES = 8 << 20
SCHEMAS_AT_ONCE = 16


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
        """Reads `to_json`'s bytes. Raises ValueError, TypeError or KeyError when they are none of this version."""
        raw = json.loads(data)
        counts = {name: tuple(map(int, raw[name])) for name in ("shard_rows", "shard_samples")}
        if not isinstance(raw["status_counts"], dict) or not {"output_format", "encode_format"} <= {*raw["settings"]}:
            raise ValueError("settings or status_counts are of another kind")
        return cls(**{**raw, **counts})


def read_manifest(storage: Storage) -> Manifest:
    """The dataset's manifest. Raises InputError when it is torn, of another tool or of another version."""
    data = storage.read_bytes(MANIFEST_FILE)
    try:
        raw = json.loads(data)
        version = raw["format_version"]
        if version == FORMAT_VERSION:
            return Manifest.from_json(data)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{storage.url}/{MANIFEST_FILE} is no manifest of a dataset ({type(error).__name__}: {error}).",
            "`diptych build` writes it when all shards are in.",
            "Run `diptych build` with the same config: it writes it anew from the shards.",
        ) from error
    raise InputError(
        f"{storage.url}/{MANIFEST_FILE} has format version {version}.",
        f"This diptych reads version {FORMAT_VERSION}.",
        "Use the diptych that built it, or build it again.",
    )


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
        return cls(storage, read_manifest(storage))

    @property
    def is_webdataset(self) -> bool:
        """Whether images lie in tar files (else in a column of the Parquet files)."""
        return bool(self.manifest.settings["output_format"] == "webdataset")

    def read_rows(self, shard: int, columns: list[str] | None = None) -> pa.Table:
        """The shard's table: one row per input row; without `columns`, all but the images.

        Columns that this shard has not are null: a list may have some in a part of its files only.
        Raises CorruptData when the table cannot be read.
        """
        with self._open_table(shard) as file:
            return self._rows_of(file, shard, columns)

    def read_rows_to_choose(self, shard: int, columns: list[str], texts: list[str]) -> tuple[pa.Table, bool]:
        """`columns` of the shard's table, and whether each row has a text in one of `texts` by the file's statistics.

        Where they don't say so, the table has the columns `texts` too: they take most of the room. Raises CorruptData
        when the table cannot be read.
        """
        with self._open_table(shard) as file:
            is_filled = any(has_text_everywhere(file.metadata, name) for name in texts)
            wanted = columns if is_filled else [*columns, *texts]
            return self._rows_of(file, shard, list(dict.fromkeys(wanted))), is_filled

    def _rows_of(self, file: pq.ParquetFile, shard: int, columns: list[str] | None) -> pa.Table:
        present = file.schema_arrow.names
        wanted = [name for name in present if name != self.image_column] if columns is None else columns
        table = file.read(columns=[name for name in wanted if name in present])
        for name in dict.fromkeys(wanted):
            if name not in present:
                if name in {"key", "status", "image_offset", "image_length", self.image_column}:
                    raise self.unreadable(f"{shard_name(shard)}.parquet", f"it has no column {name}")
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table.select(wanted)

    def schema(self, shard: int) -> pa.Schema:
        """The columns of the shard's table, images left out. Raises CorruptData when it cannot be read."""
        with self._open_table(shard) as file:
            schema = file.schema_arrow
        return pa.schema([field for field in schema if field.name != self.image_column])

    def column_names(self, shard: int) -> list[str]:
        """The names of `schema`."""
        return list(self.schema(shard).names)

    def find_columns(self, names: Iterable[str]) -> dict[str, pa.DataType]:
        """Those of the columns that any shard has, with their type in the first one that has them."""
        missing, found = set(names), dict[str, pa.DataType]()
        shards = range(len(self.manifest.shard_rows))
        with ThreadPoolExecutor(SCHEMAS_AT_ONCE) as threads:
            for some in (shards[:1], *(shards[k : k + SCHEMAS_AT_ONCE] for k in shards[1::SCHEMAS_AT_ONCE])):
                for schema in threads.map(self.schema, some if missing else ()):
                    found |= {name: schema.field(name).type for name in missing & set(schema.names)}
                    missing -= found.keys()
        return found

    @property
    def image_column(self) -> str:
        """The name of the images' column in the Parquet format: the encoding's, as in img2dataset."""
        return str(self.manifest.settings["encode_format"])

    @contextlib.contextmanager
    def _open_table(self, shard: int) -> Iterator[pq.ParquetFile]:
        path = f"{shard_name(shard)}.parquet"
        try:
            # Reads of an object store cost a request each: pre_buffer joins those of neighbouring columns.
            with (
                self.storage.open_input(path) as stream,
                pq.ParquetFile(stream, pre_buffer=not self.storage.is_local) as file,
            ):
                yield file
        except (pa.ArrowException, OSError) as error:
            raise self.unreadable(path, first_line(error)) from error

    def unreadable(self, path: str, reason: str) -> CorruptData:
        """The error for a shard's file that cannot be read."""
        return CorruptData(
            f"{self.storage.url}/{path} cannot be read as a file of its shard ({reason}).",
            "A shard is read as it was committed.",
            "`diptych verify` names all that is damaged; `diptych build` makes it again.",
        )

    def open_shard(self, shard: int, columns: list[str]) -> "ShardReader":
        """Opens one shard for its good samples, with `columns` of their table."""
        return ShardReader(self, shard, columns)


class ShardReader:
    """The good samples of one shard, by index: `samples` is their table, `image(i)` their encoded bytes.

    Safe to share between threads. A `with` block or `close` lets go of the file.
    """

    def __init__(self, dataset: Dataset, shard: int, columns: list[str]) -> None:
        self._dataset = dataset
        self._webdataset = dataset.is_webdataset
        own = ["image_offset", "image_length"] if self._webdataset else []
        table = dataset.read_rows(shard, list(dict.fromkeys([*columns, "status", *own])))
        good = is_good(table)
        self.samples: pa.Table = table.filter(good)
        if self._webdataset:
            self._offsets = self.samples["image_offset"].to_numpy()
            self._lengths = self.samples["image_length"].to_numpy()
            self._tar = f"{shard_name(shard)}.tar"
            try:
                self._file = _RangeFile(dataset.storage, self._tar)
            except OSError as error:
                raise dataset.unreadable(self._tar, str(error)) from error
        else:
            table_path = f"{shard_name(shard)}.parquet"
            try:
                self._images = ImageColumn(dataset.storage, table_path, dataset.image_column, np.flatnonzero(good))
            except (pa.ArrowException, OSError, KeyError) as error:
                raise dataset.unreadable(table_path, str(error)) from error

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
            return self.read_range(int(self._offsets[index]), int(self._lengths[index]))
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
        """Bytes of the shard's tar file; fewer only at its end. Raises CorruptData when the file is gone."""
        try:
            return self._file.read(offset, length)
        except FileNotFoundError as error:  # an object store is asked for the file here first
            raise self._dataset.unreadable(self._tar, "it is not there") from error

    def close(self) -> None:
        """Lets go of the shard's file."""
        (self._file if self._webdataset else self._images).close()


class _RangeFile:
    """Reads byte ranges from several threads at once: by pread on local disk, by range requests elsewhere.

    Closes when it is let go of, so that a cache may drop it while another thread still reads.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._descriptor: int | None = None
        if storage.is_local:
            self._descriptor = os.open(storage.local_path(path), os.O_RDONLY)
            self._close = weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        if self._descriptor is not None:
            return os.pread(self._descriptor, length, offset)
        # A stream of Python's would hold a lock while it reads.
        return self._storage.read_range(self._path, offset, length)

    def close(self) -> None:
        if self._descriptor is not None:
            self._close()
